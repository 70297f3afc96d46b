#define _GNU_SOURCE
#include "environment.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { ENTRIES_LIMIT = 128, ENTRY_LIMIT = 16384, KEEP_LIMIT = 64, NAME_LIMIT = 64, FIELD_LIMIT = 256 };

static char kept[KEEP_LIMIT][NAME_LIMIT + 1];
static size_t kept_count;

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
static const char letters_and_digits[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";

/* Names whose value the shell makes itself. */
static const char *const own[] = {"PATH", "HOME", "USER", "LOGNAME", "SHELL"};

static bool valid_name(const char *name, size_t length) {
    return length > 0 && length <= NAME_LIMIT && strchr(letters, name[0]) != NULL &&
           strspn(name, letters_and_digits) >= length;
}

static bool is(const char *name, size_t length, const char *other) {
    return strlen(other) == length && memcmp(name, other, length) == 0;
}

const char *environment_keep(const char *list) {
    for (;;) {
        size_t length = strcspn(list, ",");
        if (!valid_name(list, length))
            return "a name is not 1 to 64 letters, digits and '_'";
        for (size_t i = 0; i < sizeof own / sizeof *own; i++)
            if (is(list, length, own[i]))
                return "PATH, HOME, USER, LOGNAME and SHELL are set by the shell itself";
        if (kept_count == KEEP_LIMIT)
            return "more than 64 names";
        memcpy(kept[kept_count++], list, length);
        if (list[length] == 0)
            return NULL;
        list += length + 1;
    }
}

/* Names of terminals and locales: some programs make file names of them. */
static bool plain_value(const char *value) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.@+:-";
    size_t length = strlen(value);
    return length > 0 && length <= NAME_LIMIT && value[0] != '.' && strspn(value, plain) == length;
}

static bool passes(const char *entry) {
    const char *equals = strchr(entry, '=');
    if (equals == NULL || strnlen(entry, ENTRY_LIMIT) == ENTRY_LIMIT)
        return false;
    size_t length = (size_t)(equals - entry);
    if (!valid_name(entry, length))
        return false;
    for (size_t i = 0; i < kept_count; i++)
        if (is(entry, length, kept[i]))
            return true;
    if (length > 5 && memcmp(entry, "ABLY_", 5) == 0)
        return true;
    bool plain = is(entry, length, "TERM") || is(entry, length, "COLORTERM") ||
                 is(entry, length, "NO_COLOR") || is(entry, length, "LANG") ||
                 is(entry, length, "LANGUAGE") || (length > 3 && memcmp(entry, "LC_", 3) == 0);
    return plain && plain_value(equals + 1);
}

static bool has_name(char **entries, size_t count, const char *entry) {
    size_t length = (size_t)(strchr(entry, '=') - entry) + 1;
    for (size_t i = 0; i < count; i++)
        if (strncmp(entries[i], entry, length) == 0)
            return true;
    return false;
}

/* Copy field `index` of a line of /etc/passwd. False: it is missing, empty or too long. */
static bool passwd_field(const char *line, size_t index, char out[FIELD_LIMIT]) {
    for (; index > 0; index--) {
        line = strpbrk(line, ":\n");
        if (line == NULL || *line == '\n')
            return false;
        line++;
    }
    size_t length = strcspn(line, ":\n");
    if (length == 0 || length >= FIELD_LIMIT)
        return false;
    memcpy(out, line, length);
    out[length] = 0;
    return true;
}

/* Name and home of this process's user, by /etc/passwd; the image's defaults when it has no entry (then the
 * user id is one that was made up for this session). The C library's getpwuid would load code at run time,
 * even into a static program. */
static void find_user(char name[FIELD_LIMIT], char home[FIELD_LIMIT]) {
    static char content[65536];
    char wanted[FIELD_LIMIT], id[FIELD_LIMIT];
    size_t size = 0;
    snprintf(wanted, sizeof wanted, "%lu", (unsigned long)getuid());
    int file = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    while (file >= 0 && size < sizeof content - 1) {
        ssize_t count = read(file, content + size, sizeof content - 1 - size);
        if (count <= 0)
            break;
        size += (size_t)count;
    }
    if (file >= 0)
        close(file);
    content[size] = 0;
    for (const char *line = content; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (passwd_field(line, 2, id) && strcmp(id, wanted) == 0 && passwd_field(line, 0, name) &&
            passwd_field(line, 5, home) && home[0] == '/')
            return;
    }
    strcpy(name, DEFAULT_USER);
    strcpy(home, DEFAULT_HOME);
}

char **environment_for_commands(char **given) {
    static char *entries[ENTRIES_LIMIT + 1];
    static char user[FIELD_LIMIT + 8], logname[FIELD_LIMIT + 8], home[FIELD_LIMIT + 8];
    char user_name[FIELD_LIMIT], user_home[FIELD_LIMIT];
    size_t count = 0;
    find_user(user_name, user_home);
    snprintf(user, sizeof user, "USER=%s", user_name);
    snprintf(logname, sizeof logname, "LOGNAME=%s", user_name);
    snprintf(home, sizeof home, "HOME=%s", user_home);
    entries[count++] = "PATH=" COMMAND_PATH;
    entries[count++] = "SHELL=" SHELL_PATH;
    entries[count++] = user;
    entries[count++] = logname;
    entries[count++] = home;
    for (; *given != NULL && count < ENTRIES_LIMIT - 1; given++)
        if (passes(*given) && !has_name(entries, count, *given))
            entries[count++] = *given;
    if (!has_name(entries, count, "TERM="))
        entries[count++] = "TERM=xterm-256color";
    entries[count] = NULL;
    return entries;
}

const char *environment_value(char **given, const char *name) {
    size_t length = strlen(name);
    for (; *given != NULL; given++)
        if (strncmp(*given, name, length) == 0 && (*given)[length] == '=')
            return *given + length + 1;
    return NULL;
}
