/*
 * restricted-shell: the prompt that a visitor of the sandbox gets.
 *
 * It runs single commands of an allow list, with their arguments exactly as typed, and does nothing else: no
 * operators, no substitutions, no redirections, no expansion, no scripts, no start-up files, no jobs.
 *
 * It is a convenience for users, NOT the security boundary. Whoever gets past it, or past one of the commands
 * that it runs, is still in the container, and that is what confines them. Nothing in the container may rely
 * on this program.
 *
 *     restricted-shell [--allow NAME,NAME...] [--keep NAME,NAME...]
 *
 * --allow: the commands; default: the names in /etc/terminal-supervisor/commands, or `ably` where that file
 * is missing.
 * --keep: further environment variables that the commands get to see.
 */
#define _GNU_SOURCE
#include "commands.h"
#include "editor.h"
#include "environment.h"
#include "history.h"
#include "report.h"
#include "run.h"
#include "terminal.h"
#include "words.h"

#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STATUS_USAGE = 2, STATUS_NOT_FOUND = 127, STATUS_INTERRUPTED = 130, PROMPT_LIMIT = 64 };

#define DEFAULT_PROMPT "ably> "

extern char **environ;

static struct line prompt, line, rest;
static struct words words;
static char **environment;
static int status; /* of the last command */

/* Bracketed paste: the terminal marks what is pasted, so that it cannot run by itself. */
static const char paste_on[] = "\033[?2004h", paste_off[] = "\033[?2004l";

/* Whatever a command has left on: soft reset (colours, scroll region, hidden cursor, insert mode), wrapping,
 * key modes, mouse reports, the alternate screen. None of it moves the cursor, and none of it makes the
 * terminal answer. */
static const char after_command[] =
    "\033[!p\033[?7h\033[?1l\033>\033[?25h\033[?9;1000;1002;1003;1004;1005;1006;1015;1047l";

static _Noreturn void refuse_to_start(const char *what, const char *problem) {
    const char *parts[] = {"restricted-shell: ", what, ": ", problem, "\n"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (write(STDERR_FILENO, parts[i], strlen(parts[i])) < 0)
            break;
    _exit(STATUS_USAGE);
}

/* Leave descriptors 0 to 2 and the one for reports, and no others. */
static void close_descriptors(void) {
    int first = report_start();
    struct rlimit limit;
    if (fcntl(STDERR_FILENO, F_GETFD) < 0)
        dup2(STDOUT_FILENO, STDERR_FILENO);
    if (syscall(SYS_close_range, (unsigned)first, ~0U, 0U) == 0)
        return;
    rlim_t end = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 65536 ? limit.rlim_cur : 65536;
    for (int fd = first; (rlim_t)fd < end; fd++)
        close(fd);
}

static void read_options(int count, char **arguments) {
    const char *allowed = NULL, *problem;
    for (int i = 1; i < count; i += 2) {
        const char *option = arguments[i];
        bool allow = strcmp(option, "--allow") == 0, keep = strcmp(option, "--keep") == 0;
        if (!allow && !keep)
            refuse_to_start(option,
                            "the options are --allow NAME,NAME... and --keep NAME,NAME...; no scripts");
        if (i + 1 == count)
            refuse_to_start(option, "a list of names is missing");
        if (allow && allowed != NULL)
            refuse_to_start(option, "given twice");
        if (allow)
            allowed = arguments[i + 1];
        problem = allow ? commands_from_option(allowed) : environment_keep(arguments[i + 1]);
        if (problem != NULL)
            refuse_to_start(option, problem);
    }
    if (allowed == NULL && (problem = commands_from_file(COMMANDS_FILE)) != NULL)
        refuse_to_start(COMMANDS_FILE, problem);
}

/* PS1 is plain text here. One that is not, or that is too long, is not used. */
static void choose_prompt(void) {
    const char *wanted = environment_value(environ, "PS1");
    bool usable = wanted != NULL && *wanted != 0 && strnlen(wanted, PROMPT_LIMIT + 1) <= PROMPT_LIMIT;
    if (!usable || !line_from_utf8(&prompt, wanted))
        line_from_utf8(&prompt, DEFAULT_PROMPT);
}

/* For messages: words can have pasted line breaks in them. */
static void put_word(const char *word) {
    for (; *word != 0; word++) {
        char byte[2] = {*word == '\n' || *word == '\t' ? ' ' : *word, 0};
        put_text(byte);
    }
}

static void complain(const char *what, const char *problem) {
    put_word(what);
    put_text(problem);
    put_text("\n");
}

static void help(void) {
    const char *name;
    put_text("This shell runs one command at a time:\n\n");
    for (size_t i = 0; (name = command_name(i)) != NULL; i++) {
        put_text("  ");
        put_text(name);
        put_text(strcmp(name, "exit") == 0 ? " [STATUS]" : "");
        put_text(command_installed(name) ? "\n" : " (not installed here)\n");
    }
    put_text("\n"
             "Text in single or double quotes is passed on as it is. There are no pipes,\n"
             "redirections, variables, wildcards or scripts. Tab completes a command's name,\n"
             "the arrow keys bring back earlier lines, Ctrl-R searches them, Ctrl-C stops a\n"
             "command, Ctrl-D leaves.\n");
}

/* True when the shell is to end. */
static bool builtin_exit(void) {
    const char *wanted = words.argv[1];
    if (words.count == 1)
        return true;
    int number = 0;
    size_t digits = strspn(wanted, "0123456789");
    for (size_t i = 0; i < digits && number <= 255; i++)
        number = number * 10 + (wanted[i] - '0');
    if (words.count > 2 || digits == 0 || wanted[digits] != 0 || number > 255) {
        complain("exit", ": takes one number from 0 to 255");
        status = STATUS_USAGE;
        return false;
    }
    status = number;
    return true;
}

static void run_allowed(void) {
    put_text(paste_off);
    status = run_command(words.argv, environment);
    put_text(after_command);
    /* Begin a new row when the output did not end with one: as many spaces as there are columns stay in the
     * row only when they began at its start. */
    size_t columns, rows;
    terminal_size(&columns, &rows);
    for (size_t i = 0; i < columns; i++)
        put_text(" ");
    put_text("\r\033[K");
}

/* Run the words. True when the shell is to end. */
static bool run_words(void) {
    const char *name = words.argv[0];
    if (strcmp(name, "exit") == 0)
        return builtin_exit();
    status = 0;
    if (strcmp(name, "clear") == 0) {
        put_text("\033[H\033[2J\033[3J");
    } else if (strcmp(name, "help") == 0) {
        help();
    } else if (strchr(name, '/') != NULL) {
        complain(name, ": commands are named without a path");
        status = STATUS_NOT_FOUND;
    } else if (!command_allowed(name)) {
        complain(*name == 0 ? "''" : name, ": not a command of this shell; `help` lists those that are");
        status = STATUS_NOT_FOUND;
    } else {
        run_allowed();
    }
    return false;
}

static void complain_of_line(enum split_result result) {
    char operator[] = {'\'', (char)words.operator, '\'', 0};
    status = STATUS_USAGE;
    if (result == SPLIT_UNCLOSED)
        complain("a quote is not closed", ": nothing was run");
    else if (result == SPLIT_BACKSLASH)
        complain("the line ends in a backslash", ": nothing was run");
    else
        complain(operator, ": this shell runs single commands only; quote it to pass it on as text");
}

/* Keep for the next prompt what stands behind the first command of pasted lines; remember that command. */
static void take_first_command(void) {
    size_t begin = words.consumed;
    while (begin < line.length && strchr(" \t\n", (int)line.text[begin]) != NULL && line.text[begin] < 0x80)
        begin++;
    rest.length = line.length - begin;
    memcpy(rest.text, line.text + begin, rest.length * sizeof *rest.text);
    line.length = words.consumed;
    while (line.length > 0 && line.text[line.length - 1] == '\n')
        line.length--;
    if (words.count > 0)
        history_add(&line);
}

static void prompt_loop(void) {
    for (;;) {
        terminal_edit_modes();
        put_text(paste_on);
        line = rest;
        rest.length = 0;
        enum edit_result edited = edit_line(&prompt, &line);
        if (edited == EDIT_ENDED)
            return;
        if (edited == EDIT_CANCELLED) {
            status = STATUS_INTERRUPTED;
            continue;
        }
        enum split_result result = split_line(&line, &words);
        if (result != SPLIT_WORDS) {
            history_add(&line);
            complain_of_line(result);
            continue;
        }
        take_first_command();
        if (words.count > 0 && run_words())
            return;
    }
}

int main(int argc, char **argv) {
    close_descriptors();
    prctl(PR_SET_DUMPABLE, 0); /* commands run as the same user; they need not read this process's memory */
    read_options(argc, argv);
    run_start();
    const char *problem = terminal_start();
    if (problem != NULL)
        refuse_to_start("terminal", problem);
    environment = environment_for_commands(environ);
    choose_prompt();
    prompt_loop();
    put_text(paste_off);
    put_flush();
    terminal_restore();
    return status;
}
