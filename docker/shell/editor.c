#include "editor.h"

#include "buffer.h"
#include "commands.h"
#include "history.h"
#include "keys.h"
#include "screen.h"
#include "terminal.h"

#include <string.h>

/* Milliseconds without a byte after which Ctrl-C is believed to come from the keyboard. */
enum { PASTE_QUIET = 1000 };

#define CONTROL(letter) ((letter) & 31)

static struct {
    const struct line *prompt;
    size_t age;         /* of the history's line that is edited, plus 1; 0 is the draft */
    size_t paste_begin; /* where the paste that goes on began */
    bool pasting, quiet, searching;
    bool draft_cut; /* the buffer's `cut` of the draft */
    bool dirty, bell;
} editor;

static struct buffer buffer;
static struct line draft, query, search_prompt;

static void set_cursor(size_t cursor) {
    buffer.cursor = cursor;
    editor.dirty = true;
}

/* Note what a change of the buffer came to: the bell says that it was not possible, or not all of it. */
static void changed(bool success) {
    editor.dirty = true;
    editor.bell = editor.bell || !success;
}

static void insert(uint32_t character) {
    if (!buffer_insert(&buffer, character))
        editor.bell = true;
    else if (editor.dirty || buffer.cursor < buffer.line->length || !screen_append(character))
        editor.dirty = true;
}

static void copy_line(struct line *to, const struct line *from) {
    to->length = from->length;
    memcpy(to->text, from->text, from->length * sizeof *from->text);
}

/* Edit the history's line of that age plus 1; 0 is the draft again. */
static void recall(size_t age) {
    const struct line *recalled = age > 0 ? history_line(age - 1) : &draft;
    if (recalled == NULL) {
        editor.bell = true;
        return;
    }
    if (editor.age == 0) {
        copy_line(&draft, buffer.line);
        editor.draft_cut = buffer.cut;
    }
    copy_line(buffer.line, recalled);
    buffer.cut = age == 0 && editor.draft_cut;
    editor.age = age;
    set_cursor(buffer.line->length);
}

static void recall_newer(void) {
    if (editor.age > 0)
        recall(editor.age - 1);
    else
        editor.bell = true;
}

/* Where `query` stands in `line`, or LINE_LIMIT. */
static size_t find(const struct line *line) {
    for (size_t at = 0; at + query.length <= line->length; at++)
        if (memcmp(line->text + at, query.text, query.length * sizeof *query.text) == 0)
            return at;
    return LINE_LIMIT;
}

static void search_from(size_t age) {
    const struct line *line;
    for (; query.length > 0 && (line = history_line(age)) != NULL; age++) {
        size_t at = find(line);
        if (at < LINE_LIMIT) {
            recall(age + 1);
            set_cursor(at);
            return;
        }
    }
    editor.bell = query.length > 0;
}

/* True when the key was one for the search; any other ends it, and has its usual meaning then. */
static bool search_key(struct key key) {
    if (key.kind == KEY_NONE || key.kind == KEY_BAD)
        return true;
    editor.dirty = true;
    if (key.kind == KEY_TEXT) {
        if (query.length < LINE_LIMIT)
            query.text[query.length++] = key.character;
        search_from(editor.age > 0 ? editor.age - 1 : 0);
        return true;
    }
    if (key.kind == KEY_CONTROL && key.character == CONTROL('R')) {
        search_from(editor.age);
        return true;
    }
    if (key.kind == KEY_CONTROL && (key.character == 127 || key.character == CONTROL('H'))) {
        query.length -= query.length > 0;
        search_from(0);
        return true;
    }
    editor.searching = false;
    if (key.kind != KEY_CONTROL || key.character != CONTROL('G'))
        return false;
    if (editor.age > 0)
        recall(0);
    return true;
}

static void show(void) {
    if (!editor.searching) {
        screen_show(editor.prompt, buffer.line, buffer.cursor);
        return;
    }
    line_from_utf8(&search_prompt, "search '");
    for (size_t i = 0; i < query.length && search_prompt.length < LINE_LIMIT - 3; i++)
        search_prompt.text[search_prompt.length++] = query.text[i];
    for (const char *tail = "': "; *tail != 0; tail++)
        search_prompt.text[search_prompt.length++] = (unsigned char)*tail;
    screen_show(&search_prompt, buffer.line, buffer.cursor);
}

/* Whether `name` begins with characters `from` to `to` of the line. */
static bool begins_with(const char *name, size_t from, size_t to) {
    for (; from < to; from++, name++)
        if ((unsigned char)*name != buffer.line->text[from] || *name == 0)
            return false;
    return true;
}

/* Complete the command's name; nothing else is ever looked up. */
static void complete(void) {
    const struct line *line = buffer.line;
    size_t begin = 0, matches = 0, common = 0;
    const char *first = NULL, *name;
    while (begin < buffer.cursor && line->text[begin] == ' ')
        begin++;
    size_t typed = buffer.cursor - begin;
    for (size_t i = 0; (name = command_name(i)) != NULL; i++) {
        if (!begins_with(name, begin, buffer.cursor))
            continue;
        size_t same = typed;
        while (first != NULL && same < common && name[same] == first[same])
            same++;
        common = first == NULL ? strlen(name) : same;
        first = first == NULL ? name : first;
        matches++;
    }
    bool in_word = buffer.cursor < line->length && !is_blank(line->text[buffer.cursor]);
    if (matches == 0 || in_word) {
        editor.bell = true;
        return;
    }
    for (size_t i = typed; i < common; i++)
        insert((unsigned char)first[i]);
    if (matches == 1 && buffer.cursor == line->length)
        insert(' ');
    if (matches == 1 || typed < common)
        return;
    screen_end();
    for (size_t i = 0; (name = command_name(i)) != NULL; i++) {
        if (begins_with(name, begin, buffer.cursor)) {
            put_text(name);
            put_text("  ");
        }
    }
    put_text("\n");
    editor.dirty = true;
}

/* The keys that have a name of their own, for control characters and letters with Alt that mean the same. */
static struct key named_key(struct key key) {
    static const struct {
        struct key key;
        enum key_kind kind;
    } names[] = {
        {{KEY_CONTROL, CONTROL('A')}, KEY_HOME},   {{KEY_CONTROL, CONTROL('B')}, KEY_LEFT},
        {{KEY_CONTROL, CONTROL('D')}, KEY_DELETE}, {{KEY_CONTROL, CONTROL('E')}, KEY_END},
        {{KEY_CONTROL, CONTROL('F')}, KEY_RIGHT},  {{KEY_CONTROL, CONTROL('N')}, KEY_DOWN},
        {{KEY_CONTROL, CONTROL('P')}, KEY_UP},     {{KEY_META, 'b'}, KEY_WORD_LEFT},
        {{KEY_META, 'f'}, KEY_WORD_RIGHT},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (key.kind == names[i].key.kind && key.character == names[i].key.character)
            return (struct key){names[i].kind, 0};
    return key;
}

static void control_key(uint32_t character) {
    switch (character) {
    case CONTROL('H'):
    case 127:
        changed(buffer_erase(&buffer, buffer_before(&buffer, buffer.cursor), buffer.cursor));
        break;
    case CONTROL('I'):
        complete();
        break;
    case CONTROL('K'):
        changed(buffer_cut_out(&buffer, buffer.cursor, buffer.line->length));
        break;
    case CONTROL('L'):
        put_text("\033[H\033[2J");
        screen_begin();
        editor.dirty = true;
        break;
    case CONTROL('R'):
        editor.searching = editor.dirty = true;
        query.length = 0;
        break;
    case CONTROL('T'):
        changed(buffer_transpose(&buffer));
        break;
    case CONTROL('U'):
        changed(buffer_cut_out(&buffer, 0, buffer.cursor));
        break;
    case CONTROL('W'):
        changed(buffer_cut_out(&buffer, buffer_argument_begin(&buffer, buffer.cursor), buffer.cursor));
        break;
    case CONTROL('Y'):
        changed(buffer_yank(&buffer));
        break;
    }
}

static void meta_key(uint32_t character) {
    if (character == 'd')
        changed(buffer_cut_out(&buffer, buffer.cursor, buffer_word_end(&buffer, buffer.cursor)));
    else if (character == '\b' || character == 127)
        changed(buffer_cut_out(&buffer, buffer_word_begin(&buffer, buffer.cursor), buffer.cursor));
}

static void edit_key(struct key key) {
    key = named_key(key);
    switch (key.kind) {
    case KEY_TEXT:
        insert(key.character);
        break;
    case KEY_CONTROL:
        control_key(key.character);
        break;
    case KEY_META:
        meta_key(key.character);
        break;
    case KEY_UP:
        recall(editor.age + 1);
        break;
    case KEY_DOWN:
        recall_newer();
        break;
    case KEY_LEFT:
        set_cursor(buffer_before(&buffer, buffer.cursor));
        break;
    case KEY_RIGHT:
        set_cursor(buffer_after(&buffer, buffer.cursor));
        break;
    case KEY_HOME:
        set_cursor(0);
        break;
    case KEY_END:
        set_cursor(buffer.line->length);
        break;
    case KEY_DELETE:
        changed(buffer_erase(&buffer, buffer.cursor, buffer_after(&buffer, buffer.cursor)));
        break;
    case KEY_WORD_LEFT:
        set_cursor(buffer_word_begin(&buffer, buffer.cursor));
        break;
    case KEY_WORD_RIGHT:
        set_cursor(buffer_word_end(&buffer, buffer.cursor));
        break;
    case KEY_PASTE_BEGIN:
        editor.pasting = true;
        editor.paste_begin = buffer.cursor;
        break;
    case KEY_BAD:
        editor.bell = true;
        break;
    case KEY_PASTE_END:
    case KEY_NONE:
        break;
    }
}

/* Pasted text is only ever text: line breaks and tabs are kept as characters, other control characters and
 * all keys are dropped. True: Ctrl-C after a while of silence, so that a paste whose end got lost does not
 * lock the user out. */
static bool paste_key(struct key key) {
    bool line_break = key.kind == KEY_CONTROL && (key.character == '\n' || key.character == '\r');
    if (key.kind == KEY_TEXT)
        insert(key.character);
    else if (line_break)
        insert('\n');
    else if (key.kind == KEY_CONTROL && key.character == '\t')
        insert('\t');
    else if (key.kind == KEY_CONTROL && key.character == CONTROL('C') && editor.quiet)
        return true;
    if (key.kind != KEY_PASTE_END)
        return false;
    editor.pasting = false;
    size_t end = buffer.cursor;
    while (end > editor.paste_begin && buffer.line->text[end - 1] == '\n')
        end--;
    if (end < buffer.cursor)
        changed(buffer_erase(&buffer, end, buffer.cursor));
    return false;
}

static enum edit_result finish(enum edit_result result, const char *mark) {
    editor.searching = false;
    if (editor.dirty || result == EDIT_CANCELLED)
        screen_show(editor.prompt, buffer.line, buffer.line->length);
    put_text(mark);
    screen_end();
    return result;
}

/* True when `key` ends the editing, with `result`. */
static bool handle(struct key key, enum edit_result *result) {
    bool control = key.kind == KEY_CONTROL;
    bool interrupt = control && key.character == CONTROL('C') && !editor.pasting;
    if (editor.pasting)
        interrupt = paste_key(key);
    else if (!interrupt && editor.searching && search_key(key))
        return false;
    else if (control && (key.character == '\n' || key.character == '\r')) {
        if (buffer.cut)
            *result = finish(EDIT_CANCELLED, "\nthe line is too long: nothing was run");
        else
            *result = finish(EDIT_LINE, "");
        return true;
    } else if (control && key.character == CONTROL('D') && buffer.line->length == 0) {
        *result = finish(EDIT_ENDED, "");
        return true;
    } else if (!interrupt)
        edit_key(key);
    if (interrupt)
        *result = finish(EDIT_CANCELLED, "^C");
    return interrupt;
}

enum edit_result edit_line(const struct line *prompt, struct line *line) {
    struct key_parser parser = {0};
    enum edit_result result;
    memset(&editor, 0, sizeof editor);
    editor.prompt = prompt;
    buffer = (struct buffer){.line = line, .cursor = line->length};
    editor.dirty = true;
    screen_begin();
    for (;;) {
        if (!terminal_pending()) {
            if (editor.dirty)
                show();
            if (editor.bell)
                put_text("\a");
            editor.dirty = editor.bell = false;
            put_flush();
        }
        int byte = terminal_byte(editor.pasting && !editor.quiet ? PASTE_QUIET : -1);
        if (byte == TERMINAL_ENDED)
            return EDIT_ENDED;
        if (byte == TERMINAL_QUIET) {
            editor.quiet = true;
        } else if (byte == TERMINAL_RESIZED) {
            screen_resized();
            editor.dirty = true;
        } else {
            if (handle(key_from_byte(&parser, (unsigned char)byte), &result))
                return result;
            editor.quiet = false;
        }
    }
}
