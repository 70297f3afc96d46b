#include "editor.h"

#include "commands.h"
#include "history.h"
#include "keys.h"
#include "screen.h"
#include "terminal.h"

#include <string.h>

enum { PASTE_QUIET = 1000 }; /* milliseconds without a byte after which Ctrl-C is believed to come from the keyboard */

#define CONTROL(letter) ((letter) & 31)

static struct {
    const struct line *prompt;
    struct line *line;
    size_t cursor;
    size_t age;         /* of the history's line that is edited, plus 1; 0 is the draft */
    size_t paste_begin; /* where the paste that goes on began */
    bool pasting, quiet, searching;
    bool cut;       /* characters did not fit: what is there is not what was typed, and must not be run */
    bool draft_cut; /* the same of the draft */
    bool dirty, bell;
} editor;

static struct line draft, killed, query, search_prompt;

static void set_cursor(size_t cursor) {
    editor.cursor = cursor;
    editor.dirty = true;
}

static void insert(uint32_t character) {
    struct line *line = editor.line;
    if (line->length == LINE_LIMIT) {
        editor.bell = editor.cut = true;
        return;
    }
    uint32_t *place = line->text + editor.cursor;
    memmove(place + 1, place, (line->length - editor.cursor) * sizeof *place);
    *place = character;
    line->length++;
    editor.cursor++;
    bool shown = !editor.dirty && editor.cursor == line->length && screen_append(character);
    editor.dirty = !shown;
}

static void erase(size_t from, size_t to) {
    struct line *line = editor.line;
    if (from == to) {
        editor.bell = true;
        return;
    }
    memmove(line->text + from, line->text + to, (line->length - to) * sizeof *line->text);
    line->length -= to - from;
    editor.cut = editor.cut && line->length > 0;
    set_cursor(from);
}

/* Erase, and keep it for Ctrl-Y. */
static void cut_out(size_t from, size_t to) {
    if (from < to) {
        killed.length = to - from;
        memcpy(killed.text, editor.line->text + from, killed.length * sizeof *killed.text);
    }
    erase(from, to);
}

static void copy_line(struct line *to, const struct line *from) {
    to->length = from->length;
    memcpy(to->text, from->text, from->length * sizeof *from->text);
}

/* Characters without a column of their own (accents) belong to the one before them. */
static size_t before(size_t index) {
    while (index > 0 && columns_of(editor.line->text[--index]) == 0)
        ;
    return index;
}

static size_t after(size_t index) {
    const struct line *line = editor.line;
    if (index < line->length)
        index++;
    while (index < line->length && columns_of(line->text[index]) == 0)
        index++;
    return index;
}

static bool is_blank(uint32_t character) {
    return character == ' ' || character == '\t' || character == '\n';
}

static bool is_word(uint32_t character) {
    return character >= 0x80 || (character >= '0' && character <= '9') ||
           ((character | 32) >= 'a' && (character | 32) <= 'z');
}

static size_t word_begin(size_t index) {
    const uint32_t *text = editor.line->text;
    while (index > 0 && !is_word(text[index - 1]))
        index--;
    while (index > 0 && is_word(text[index - 1]))
        index--;
    return index;
}

static size_t word_end(size_t index) {
    const struct line *line = editor.line;
    while (index < line->length && !is_word(line->text[index]))
        index++;
    while (index < line->length && is_word(line->text[index]))
        index++;
    return index;
}

static size_t argument_begin(size_t index) {
    const uint32_t *text = editor.line->text;
    while (index > 0 && is_blank(text[index - 1]))
        index--;
    while (index > 0 && !is_blank(text[index - 1]))
        index--;
    return index;
}

static void transpose(void) {
    struct line *line = editor.line;
    size_t right = editor.cursor == line->length && editor.cursor > 0 ? editor.cursor - 1 : editor.cursor;
    if (right == 0 || line->length < 2) {
        editor.bell = true;
        return;
    }
    uint32_t character = line->text[right];
    line->text[right] = line->text[right - 1];
    line->text[right - 1] = character;
    set_cursor(right + 1);
}

/* Edit the history's line of that age plus 1; 0 is the draft again. */
static void recall(size_t age) {
    const struct line *recalled = age > 0 ? history_line(age - 1) : &draft;
    if (recalled == NULL) {
        editor.bell = true;
        return;
    }
    if (editor.age == 0) {
        copy_line(&draft, editor.line);
        editor.draft_cut = editor.cut;
    }
    copy_line(editor.line, recalled);
    editor.cut = age == 0 && editor.draft_cut;
    editor.age = age;
    set_cursor(editor.line->length);
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

/* True when the key was one for the search; any other ends it and has its usual meaning for the line that was found. */
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
        screen_show(editor.prompt, editor.line, editor.cursor);
        return;
    }
    line_from_utf8(&search_prompt, "search '");
    for (size_t i = 0; i < query.length && search_prompt.length < LINE_LIMIT - 3; i++)
        search_prompt.text[search_prompt.length++] = query.text[i];
    for (const char *tail = "': "; *tail != 0; tail++)
        search_prompt.text[search_prompt.length++] = (unsigned char)*tail;
    screen_show(&search_prompt, editor.line, editor.cursor);
}

/* Whether `name` begins with characters `from` to `to` of the line. */
static bool begins_with(const char *name, size_t from, size_t to) {
    for (; from < to; from++, name++)
        if ((unsigned char)*name != editor.line->text[from] || *name == 0)
            return false;
    return true;
}

/* Complete the command's name; nothing else is ever looked up. */
static void complete(void) {
    const struct line *line = editor.line;
    size_t begin = 0, matches = 0, common = 0;
    const char *first = NULL, *name;
    while (begin < editor.cursor && line->text[begin] == ' ')
        begin++;
    size_t typed = editor.cursor - begin;
    for (size_t i = 0; (name = command_name(i)) != NULL; i++) {
        if (!begins_with(name, begin, editor.cursor))
            continue;
        size_t same = typed;
        while (first != NULL && same < common && name[same] == first[same])
            same++;
        common = first == NULL ? strlen(name) : same;
        first = first == NULL ? name : first;
        matches++;
    }
    bool in_word = editor.cursor < line->length && !is_blank(line->text[editor.cursor]);
    if (matches == 0 || in_word) {
        editor.bell = true;
        return;
    }
    for (size_t i = typed; i < common; i++)
        insert((unsigned char)first[i]);
    if (matches == 1 && editor.cursor == line->length)
        insert(' ');
    if (matches == 1 || typed < common)
        return;
    screen_end();
    for (size_t i = 0; (name = command_name(i)) != NULL; i++) {
        if (begins_with(name, begin, editor.cursor)) {
            put_text(name);
            put_text("  ");
        }
    }
    put_text("\n");
    editor.dirty = true;
}

static void control_key(uint32_t character) {
    size_t length = editor.line->length;
    switch (character) {
    case CONTROL('A'):
        set_cursor(0);
        break;
    case CONTROL('B'):
        set_cursor(before(editor.cursor));
        break;
    case CONTROL('D'):
        erase(editor.cursor, after(editor.cursor));
        break;
    case CONTROL('E'):
        set_cursor(length);
        break;
    case CONTROL('F'):
        set_cursor(after(editor.cursor));
        break;
    case CONTROL('H'):
    case 127:
        erase(before(editor.cursor), editor.cursor);
        break;
    case CONTROL('I'):
        complete();
        break;
    case CONTROL('K'):
        cut_out(editor.cursor, length);
        break;
    case CONTROL('L'):
        put_text("\033[H\033[2J");
        screen_begin();
        editor.dirty = true;
        break;
    case CONTROL('N'):
        recall_newer();
        break;
    case CONTROL('P'):
        recall(editor.age + 1);
        break;
    case CONTROL('R'):
        editor.searching = editor.dirty = true;
        query.length = 0;
        break;
    case CONTROL('T'):
        transpose();
        break;
    case CONTROL('U'):
        cut_out(0, editor.cursor);
        break;
    case CONTROL('W'):
        cut_out(argument_begin(editor.cursor), editor.cursor);
        break;
    case CONTROL('Y'):
        for (size_t i = 0; i < killed.length; i++)
            insert(killed.text[i]);
        break;
    }
}

static void meta_key(uint32_t character) {
    switch (character) {
    case 'b':
        set_cursor(word_begin(editor.cursor));
        break;
    case 'd':
        cut_out(editor.cursor, word_end(editor.cursor));
        break;
    case 'f':
        set_cursor(word_end(editor.cursor));
        break;
    case '\b':
    case 127:
        cut_out(word_begin(editor.cursor), editor.cursor);
        break;
    }
}

static void edit_key(struct key key) {
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
        set_cursor(before(editor.cursor));
        break;
    case KEY_RIGHT:
        set_cursor(after(editor.cursor));
        break;
    case KEY_HOME:
        set_cursor(0);
        break;
    case KEY_END:
        set_cursor(editor.line->length);
        break;
    case KEY_DELETE:
        erase(editor.cursor, after(editor.cursor));
        break;
    case KEY_WORD_LEFT:
        set_cursor(word_begin(editor.cursor));
        break;
    case KEY_WORD_RIGHT:
        set_cursor(word_end(editor.cursor));
        break;
    case KEY_PASTE_BEGIN:
        editor.pasting = true;
        editor.paste_begin = editor.cursor;
        break;
    case KEY_BAD:
        editor.bell = true;
        break;
    case KEY_PASTE_END:
    case KEY_NONE:
        break;
    }
}

/* Pasted text is only ever text: line breaks and tabs are kept as characters, other control characters and all keys are
 * dropped. True: Ctrl-C after a while of silence, so that a paste whose end got lost does not lock the user out. */
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
    size_t end = editor.cursor;
    while (end > editor.paste_begin && editor.line->text[end - 1] == '\n')
        end--;
    if (end < editor.cursor)
        erase(end, editor.cursor);
    return false;
}

static enum edit_result finish(enum edit_result result, const char *mark) {
    editor.searching = false;
    if (editor.dirty || result == EDIT_CANCELLED)
        screen_show(editor.prompt, editor.line, editor.line->length);
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
        if (editor.cut)
            *result = finish(EDIT_CANCELLED, "\nthe line is too long: nothing was run");
        else
            *result = finish(EDIT_LINE, "");
        return true;
    } else if (control && key.character == CONTROL('D') && editor.line->length == 0) {
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
    editor.line = line;
    editor.cursor = line->length;
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
