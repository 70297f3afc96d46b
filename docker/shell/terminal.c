#define _GNU_SOURCE
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

/* A program that goes on in the background may take the terminal's foreground away. It is taken back, but not
 * for ever. */
enum { RECLAIM_LIMIT = 32 };

static struct termios at_start, for_commands, for_editing;
static sigset_t while_waiting; /* signal mask of a wait: the resize signal may come then, and only then */
static char output[8192];
static size_t output_used;
static int unread; /* bytes that are certainly there to be read: saves asking for each */

static void on_resize(int number) {
    (void)number; /* interrupting the wait is all that it is for */
}

/* Modes and keys as everybody expects them, but that Ctrl-Z stops nobody: there are no jobs to continue. */
static struct termios ordinary_modes(struct termios modes) {
    static const struct {
        int index;
        cc_t character;
    } keys[] = {
        {VINTR, 3},     {VQUIT, 28},   {VERASE, 127}, {VKILL, 21}, {VEOF, 4}, {VTIME, 0},
        {VMIN, 1},      {VSTART, 17},  {VSTOP, 19},   {VSUSP, 0},  {VEOL, 0}, {VREPRINT, 18},
        {VDISCARD, 15}, {VWERASE, 23}, {VLNEXT, 22},  {VEOL2, 0},
    };
    modes.c_iflag = ICRNL | IXON | IUTF8;
    modes.c_oflag = OPOST | ONLCR;
    modes.c_cflag = (modes.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8 | CREAD;
    modes.c_lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        modes.c_cc[keys[i].index] = keys[i].character;
    return modes;
}

const char *terminal_start(void) {
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return "standard input and output must be a terminal";
    if (tcgetpgrp(STDIN_FILENO) < 0) { /* not this process's controlling terminal yet */
        setsid();                      /* an error means that it leads a session already */
        if (ioctl(STDIN_FILENO, TIOCSCTTY, 0) < 0)
            return "belongs to another session";
    }
    if (getpgrp() != getpid() && setpgid(0, 0) < 0)
        return "cannot become a process group of its own";
    if (tcgetattr(STDIN_FILENO, &at_start) < 0)
        return "does not tell its modes";
    for_commands = ordinary_modes(at_start);
    for_editing = for_commands;
    /* Return stays a line feed, so that lines typed ahead are lines for the command that reads them. */
    for_editing.c_iflag &= ~(tcflag_t)IXON;
    for_editing.c_lflag = 0;

    struct sigaction action = {.sa_handler = on_resize};
    sigset_t resize;
    sigemptyset(&resize);
    sigaddset(&resize, SIGWINCH);
    sigprocmask(SIG_BLOCK, &resize, &while_waiting);
    sigdelset(&while_waiting, SIGWINCH);
    sigaction(SIGWINCH, &action, NULL);
    return NULL;
}

static void undo_nonblocking(void) {
    /* Commands share the open file description with the shell, and some (Node) leave it non-blocking. */
    for (int fd = 0; fd <= 2; fd++) {
        int flags = fcntl(fd, F_GETFL);
        if (flags >= 0 && (flags & O_NONBLOCK))
            fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    }
}

void terminal_edit_modes(void) {
    unread = 0;
    tcsetpgrp(STDIN_FILENO, getpid());
    undo_nonblocking();
    tcsetattr(STDIN_FILENO, TCSANOW, &for_editing);
}

void terminal_command_modes(void) {
    tcsetattr(STDIN_FILENO, TCSANOW, &for_commands);
}

void terminal_restore(void) {
    tcsetattr(STDIN_FILENO, TCSANOW, &at_start);
}

/* A program in the background may also change the modes while the user types. */
static void hold_edit_modes(void) {
    struct termios now;
    if (tcgetattr(STDIN_FILENO, &now) < 0)
        return;
    bool same = now.c_iflag == for_editing.c_iflag && now.c_oflag == for_editing.c_oflag &&
                now.c_lflag == for_editing.c_lflag && now.c_cc[VMIN] == 1 && now.c_cc[VTIME] == 0;
    if (!same)
        tcsetattr(STDIN_FILENO, TCSANOW, &for_editing);
}

/* Wait until there is something to read. 0, or the result of terminal_byte that it has to be. */
static int wait_for_input(int milliseconds) {
    struct timespec limit = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    struct pollfd wait = {.fd = STDIN_FILENO, .events = POLLIN};
    hold_edit_modes();
    int ready = ppoll(&wait, 1, milliseconds < 0 ? NULL : &limit, &while_waiting);
    if (ready == 0)
        return TERMINAL_QUIET;
    if (ready < 0)
        return errno == EINTR ? TERMINAL_RESIZED : TERMINAL_ENDED;
    return 0;
}

int terminal_byte(int milliseconds) {
    for (int reclaimed = 0; reclaimed < RECLAIM_LIMIT;) {
        int result = terminal_pending() ? 0 : wait_for_input(milliseconds);
        if (result != 0)
            return result;
        unsigned char byte;
        ssize_t count = read(STDIN_FILENO, &byte, 1);
        if (count == 1) {
            unread -= unread > 0;
            return byte;
        }
        unread = 0;
        if (count == 0)
            return TERMINAL_ENDED;
        if (errno == EIO) { /* hung up, or no longer the foreground */
            if (tcgetpgrp(STDIN_FILENO) < 0)
                return TERMINAL_ENDED;
            terminal_edit_modes();
            reclaimed++;
        } else if (errno != EAGAIN && errno != EINTR) {
            return TERMINAL_ENDED;
        }
    }
    return TERMINAL_ENDED;
}

bool terminal_pending(void) {
    if (unread == 0 && ioctl(STDIN_FILENO, FIONREAD, &unread) < 0)
        unread = 0;
    return unread > 0;
}

void terminal_size(size_t *columns, size_t *rows) {
    struct winsize size;
    bool known = ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0;
    *columns = known ? size.ws_col : 80;
    *rows = known ? size.ws_row : 24;
    if (*columns < 2) /* a wide character needs two */
        *columns = 2;
}

static void put_bytes(const char *bytes, size_t count) {
    while (count > 0) {
        if (output_used == sizeof output)
            put_flush();
        size_t room = sizeof output - output_used, part = count < room ? count : room;
        memcpy(output + output_used, bytes, part);
        output_used += part;
        bytes += part;
        count -= part;
    }
}

void put_text(const char *text) {
    put_bytes(text, strlen(text));
}

void put_character(uint32_t character) {
    char bytes[4];
    put_bytes(bytes, utf8_encode(character, bytes));
}

void put_number(size_t number) {
    char digits[24];
    size_t at = sizeof digits;
    digits[--at] = 0;
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    put_text(digits + at);
}

void put_flush(void) {
    size_t written = 0;
    while (written < output_used) {
        ssize_t count = write(STDOUT_FILENO, output + written, output_used - written);
        if (count > 0) {
            written += (size_t)count;
        } else if (count < 0 && errno == EAGAIN) {
            struct pollfd wait = {.fd = STDOUT_FILENO, .events = POLLOUT};
            poll(&wait, 1, -1);
        } else if (count == 0 || errno != EINTR) {
            break; /* nobody is there to see it; reading will tell the same */
        }
    }
    output_used = 0;
}
