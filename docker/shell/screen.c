#include "screen.h"

#include "terminal.h"

/* Where a character goes. A column equal to the number of columns: the row is full, the terminal will wrap.
 */
struct place {
    size_t row, column;
};

static struct {
    struct place cursor; /* the terminal's cursor; rows count from the first row shown */
    struct place end;    /* behind the last character shown */
    size_t top; /* first row of the text that is shown: 0 unless the text is higher than the screen */
    size_t columns;
    bool shown, damaged;
} screen;

/* Pasted line breaks and tabs are shown as one character each. */
static uint32_t glyph(uint32_t character) {
    return character == '\n' ? 0x21B5 : character == '\t' ? ' ' : character;
}

/* The place of a character that is `width` columns wide and comes when the text so far ends at `place`. */
static struct place placed(struct place place, unsigned width, size_t columns) {
    return place.column + width > columns ? (struct place){place.row + 1, 0} : place;
}

static uint32_t character_at(const struct line *prompt, const struct line *line, size_t index) {
    return glyph(index < prompt->length ? prompt->text[index] : line->text[index - prompt->length]);
}

static void move(const char *direction, size_t count) {
    if (count == 0)
        return;
    put_text("\033[");
    put_number(count);
    put_text(direction);
}

static void go_to(struct place place) {
    if (place.row == screen.cursor.row && place.column == screen.cursor.column && place.column > 0)
        return;
    put_text("\r");
    if (place.row < screen.cursor.row)
        move("A", screen.cursor.row - place.row);
    else
        move("B", place.row - screen.cursor.row);
    move("C", place.column);
    screen.cursor = place;
}

void screen_begin(void) {
    screen.shown = screen.damaged = false;
    screen.cursor = screen.end = (struct place){0, 0};
    screen.top = 0;
}

void screen_resized(void) {
    screen.damaged = true;
}

static size_t first_row(size_t cursor_row, size_t last_row, size_t rows) {
    if (last_row < rows)
        return 0;
    size_t top = screen.top;
    if (top + rows > last_row + 1)
        top = last_row + 1 - rows;
    if (cursor_row < top)
        top = cursor_row;
    if (cursor_row >= top + rows)
        top = cursor_row + 1 - rows;
    return top;
}

void screen_show(const struct line *prompt, const struct line *line, size_t cursor) {
    size_t columns, rows, count = prompt->length + line->length;
    terminal_size(&columns, &rows);

    struct place end = {0, 0}, at_cursor = {0, 0};
    for (size_t i = 0; i < count; i++) {
        unsigned width = columns_of(character_at(prompt, line, i));
        end = placed(end, width, columns);
        if (i == prompt->length + cursor)
            at_cursor = end;
        end.column += width;
    }
    struct place last = placed(end, 1, columns); /* where the next character would go */
    if (cursor == line->length)
        at_cursor = last;
    size_t top = first_row(at_cursor.row, last.row, rows);

    go_to((struct place){0, 0});
    if (screen.damaged)
        put_text("\033[J");
    struct place at = {0, 0};
    for (size_t i = 0; i < count; i++) {
        uint32_t character = character_at(prompt, line, i);
        unsigned width = columns_of(character);
        struct place next = placed(at, width, columns);
        if (next.row >= top + rows)
            break;
        if (next.row > at.row && at.column < columns && at.row >= top)
            put_text("\033[K"); /* a wide character did not fit there */
        if (next.row >= top)
            put_character(character);
        at = next;
        at.column += width;
    }
    if (at.column < columns) {
        put_text("\033[J");
    } else if (at.row + 1 < top + rows) {
        /* Make the terminal wrap now. With a blank and not with a line feed, so that it knows that the rows
         * belong together and leaves them alone when the window is resized; erasing at the start of the row
         * would make xterm.js forget it. */
        put_text(" \033[J\r");
        at = (struct place){at.row + 1, 0};
    }
    screen.cursor = screen.end = (struct place){at.row - top, at.column};
    screen.top = top;
    screen.columns = columns;
    screen.shown = true;
    screen.damaged = false;
    go_to((struct place){at_cursor.row - top, at_cursor.column});
}

bool screen_append(uint32_t character) {
    unsigned width = columns_of(glyph(character));
    size_t columns, rows;
    terminal_size(&columns, &rows); /* the resize signal may still be on its way */
    bool at_end = screen.cursor.row == screen.end.row && screen.cursor.column == screen.end.column;
    bool at_margin = screen.end.column == 0 || screen.end.column + width >= screen.columns;
    if (!screen.shown || screen.damaged || columns != screen.columns || !at_end || at_margin)
        return false;
    put_character(glyph(character));
    screen.cursor.column += width;
    screen.end = screen.cursor;
    return true;
}

void screen_end(void) {
    if (screen.shown)
        go_to((struct place){screen.end.row, 0});
    put_text("\n");
    screen_begin();
}
