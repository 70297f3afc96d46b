/* Tries, from inside of a session, what sessions must not be able to do: supervisor/attacks runs it in containers.
 *
 *   attacker "NAME[=ARGUMENT] ..." ["NAME[=ARGUMENT] ..."]  one after the other, then those of the second list all at once; prints `@@ NAME succeeded EFFECT` or `@@ NAME stopped REASON` for each
 *   attacker --list                 prints the names
 *
 *   attacker --wait                 does nothing, for ever
 *   attacker --serve PORT           answers whoever connects
 *   attacker --impostor PATH VERSION  connects to a lifeline socket as a gate of this version does, without being one
 *   attacker --print HEXADECIMAL    prints these bytes
 * Called `listed` it prints its arguments; called `unlisted`, that it ran.
 *
 * The other options are for programs that an attack plants: they end with status PLANTED when they have what they should not have.
 * Every attack is bounded, undoes what it did, and can be tried as root with all rights: it never harms more than its own container. */
#define _GNU_SOURCE
#include "attacker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE = 12 /* seconds for one attack */, LONGEST = 200, MOST = 32 /* at once */ };

static const struct attack *const lists[] = {file_attacks, kernel_attacks, process_attacks, exhaustion_attacks, network_attacks};
static int said = -1; /* a pipe to the process that waits */

void succeeded(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vdprintf(said, format, arguments);
    va_end(arguments);
    _exit(0);
}

void stopped(const char *step)
{
    dprintf(said, "%s: %s", step, strerror(errno));
    _exit(1);
}

long must(long result, const char *step)
{
    if (result < 0) stopped(step);
    return result;
}

void write_all(int fd, const void *from, size_t n, const char *step)
{
    for (size_t done = 0; done < n;) done += (size_t)must(write(fd, (const char *)from + done, n - done), step);
}

void copy_myself_into(int fd)
{
    static char buffer[65536];
    int source = (int)must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "reading itself");
    for (long n; (n = must(read(source, buffer, sizeof buffer), "reading itself")) > 0;)
        write_all(fd, buffer, (size_t)n, "writing a program");
    close(source);
}

void copy_myself(const char *path)
{
    unlink(path);
    int fd = (int)must(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755), "writing a program");
    copy_myself_into(fd);
    close(fd);
    must(chmod(path, 0755), "making it executable");
}

int status_of(const char *path, const char *argument)
{
    int status, failure[2];
    must(pipe2(failure, O_CLOEXEC), "pipe");
    pid_t child = (pid_t)must(fork(), "fork");
    if (child == 0) {
        execl(path, path, argument, (char *)NULL);
        write_all(failure[1], &errno, sizeof errno, "pipe");
        _exit(1);
    }
    close(failure[1]);
    waitpid(child, &status, 0);
    int error = 0;
    if (read(failure[0], &error, sizeof error) == (ssize_t)sizeof error) {
        errno = error;
        return -1;
    }
    close(failure[0]);
    errno = EPERM; /* for whoever expected another status */
    return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

static const struct attack *find(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (const struct attack *each = lists[i]; each->name; each++)
            if (strlen(each->name) == length && memcmp(each->name, name, length) == 0) return each;
    return NULL;
}

/* An attack at work, and the end of a pipe where it says what came of it. */
struct trial {
    const char *word;
    pid_t process;
    int result;
};

static struct trial begin(const char *word)
{
    size_t length = strcspn(word, "=");
    const struct attack *attack = find(word, length);
    int result[2];
    if (!attack) {
        fprintf(stderr, "no attack %s\n", word);
        exit(2);
    }
    if (pipe2(result, O_CLOEXEC) < 0) exit(3);
    struct trial trial = {word, fork(), result[0]};
    if (trial.process < 0) exit(3);
    if (trial.process == 0) {
        said = result[1];
        alarm(PATIENCE);
        attack->run(word[length] ? word + length + 1 : "");
        succeeded("nothing"); /* never reached: every attack says how it ended */
    }
    close(result[1]);
    return trial;
}

static void end(struct trial trial)
{
    char text[LONGEST + 1];
    int status = 0, ended = waitpid(trial.process, &status, 0) == trial.process;
    /* What the attack has started may still hold the pipe. */
    struct pollfd ready = {trial.result, POLLIN, 0};
    ssize_t n = poll(&ready, 1, 0) > 0 ? read(trial.result, text, LONGEST) : 0;
    text[n > 0 ? n : 0] = 0;
    close(trial.result);
    if (!ended || WIFSIGNALED(status)) snprintf(text, sizeof text, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    printf("@@ %.*s %s %s\n", (int)strcspn(trial.word, "="), trial.word,
           ended && WIFEXITED(status) && !WEXITSTATUS(status) ? "succeeded" : "stopped", text);
    fflush(stdout);
}

static void print_bytes(const char *digits)
{
    unsigned byte;
    for (; sscanf(digits, "%2x", &byte) == 1; digits += 2) putchar((int)byte);
}

int main(int count, char **words)
{
    const char *name = strrchr(words[0], '/');
    name = name ? name + 1 : words[0];
    if (strcmp(name, "listed") == 0) {
        for (int i = 1; i < count; i++) puts(words[i]);
        return 0;
    }
    if (strcmp(name, "unlisted") == 0) {
        puts("OWN" "ED: a program ran that the shell does not list");
        return 0;
    }
    if (count == 2 && strcmp(words[1], "--wait") == 0)
        for (;;) pause();
    if (count == 3 && strcmp(words[1], "--serve") == 0) serve(atoi(words[2]));
    if (count == 4 && strcmp(words[1], "--impostor") == 0) pretend(words[2], atoi(words[3]));
    if (count == 3 && strcmp(words[1], "--print") == 0) {
        print_bytes(words[2]);
        return 0;
    }
    if (count == 2 && strcmp(words[1], "--list") == 0) {
        for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
            for (const struct attack *each = lists[i]; each->name; each++) puts(each->name);
        return 0;
    }
    if (count == 2 && strcmp(words[1], "--planted") == 0) return PLANTED;
    if (count == 2 && strcmp(words[1], "--root") == 0) return geteuid() == 0 ? PLANTED : 0;
    if (count == 2 && strcmp(words[1], "--raw") == 0) return socket(AF_INET, SOCK_RAW, 1) < 0 ? 0 : PLANTED;
    if (count < 2) return 2;
    for (char *word = strtok(words[1], " "); word; word = strtok(NULL, " ")) end(begin(word));
    struct trial trials[MOST];
    int begun = 0;
    for (char *word = count > 2 ? strtok(words[2], " ") : NULL; word && begun < MOST; word = strtok(NULL, " ")) trials[begun++] = begin(word);
    for (int i = 0; i < begun; i++) end(trials[i]);
    return 0;
}
