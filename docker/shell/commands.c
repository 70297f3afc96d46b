#define _GNU_SOURCE
#include "commands.h"

#include "environment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAMES_LIMIT = 256, NAME_LIMIT = 64, FILE_LIMIT = 16384 };

static char names[NAMES_LIMIT][NAME_LIMIT + 1];
static size_t name_count;

static const char *const builtins[] = {"clear", "exit", "help"};

static bool is_builtin(const char *name) {
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++)
        if (strcmp(name, builtins[i]) == 0)
            return true;
    return false;
}

static bool valid_name(const char *name, size_t length) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    for (size_t i = 0; i < length; i++)
        if (name[i] == 0 || (strchr(letters, name[i]) == NULL && (i == 0 || strchr(".+-", name[i]) == NULL)))
            return false;
    return length > 0 && length <= NAME_LIMIT;
}

static const char *add(const char *name, size_t length) {
    if (!valid_name(name, length))
        return "a name is not 1 to 64 letters, digits, '_', '.', '+' and '-' (the last three not first)";
    char copy[NAME_LIMIT + 1] = {0};
    memcpy(copy, name, length);
    if (command_allowed(copy) || is_builtin(copy))
        return NULL;
    if (name_count == NAMES_LIMIT)
        return "more than 256 names";
    size_t place = name_count++;
    for (; place > 0 && strcmp(names[place - 1], copy) > 0; place--)
        memcpy(names[place], names[place - 1], sizeof copy);
    memcpy(names[place], copy, sizeof copy);
    return NULL;
}

const char *commands_from_option(const char *list) {
    for (;;) {
        size_t length = strcspn(list, ",");
        const char *problem = add(list, length);
        if (problem != NULL)
            return problem;
        if (list[length] == 0)
            return NULL;
        list += length + 1;
    }
}

static const char *add_line(const char *line, size_t length) {
    static const char blank[] = " \t\r";
    const char *comment = memchr(line, '#', length);
    if (comment != NULL)
        length = (size_t)(comment - line);
    while (length > 0 && line[0] != 0 && strchr(blank, line[0]) != NULL)
        line++, length--;
    while (length > 0 && line[length - 1] != 0 && strchr(blank, line[length - 1]) != NULL)
        length--;
    return length > 0 ? add(line, length) : NULL;
}

static const char *add_lines(const char *text, size_t size) {
    for (const char *end = text + size; text < end;) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *stop = newline != NULL ? newline : end;
        const char *problem = add_line(text, (size_t)(stop - text));
        if (problem != NULL)
            return problem;
        text = stop + 1;
    }
    return NULL;
}

const char *commands_from_file(const char *path) {
    static char content[FILE_LIMIT + 1];
    struct stat status;
    size_t size = 0;
    /* Non-blocking, so that a FIFO of that name cannot keep the shell from starting. */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file < 0)
        return errno == ENOENT || errno == ENOTDIR ? add(DEFAULT_COMMAND, strlen(DEFAULT_COMMAND))
                                                   : "cannot be read";
    const char *problem =
        fstat(file, &status) == 0 && S_ISREG(status.st_mode) ? NULL : "is not a regular file";
    while (problem == NULL && size < sizeof content) {
        ssize_t count = read(file, content + size, sizeof content - size);
        if (count < 0)
            problem = "cannot be read";
        if (count <= 0)
            break;
        size += (size_t)count;
    }
    close(file);
    if (problem == NULL && size == sizeof content)
        problem = "is larger than 16384 bytes";
    return problem != NULL ? problem : add_lines(content, size);
}

bool command_allowed(const char *name) {
    for (size_t i = 0; i < name_count; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

bool command_installed(const char *name) {
    static const char path[] = COMMAND_PATH;
    char file[sizeof path + NAME_LIMIT + 1];
    bool found = is_builtin(name);
    for (const char *directory = path; *directory != 0 && !found;) {
        int length = (int)strcspn(directory, ":");
        snprintf(file, sizeof file, "%.*s/%s", length, directory, name);
        found = access(file, X_OK) == 0;
        directory += length;
        directory += *directory == ':';
    }
    return found;
}

const char *command_name(size_t index) {
    /* Both lists are sorted: merge them. */
    size_t builtin = 0, name = 0, builtin_count = sizeof builtins / sizeof *builtins;
    for (;; index--) {
        bool from_names =
            name < name_count && (builtin == builtin_count || strcmp(names[name], builtins[builtin]) < 0);
        if (!from_names && builtin == builtin_count)
            return NULL;
        const char *next = from_names ? names[name++] : builtins[builtin++];
        if (index == 0)
            return next;
    }
}
