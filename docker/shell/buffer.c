#include "buffer.h"

#include <string.h>

static struct line killed;

bool buffer_insert(struct buffer *buffer, uint32_t character) {
    struct line *line = buffer->line;
    if (line->length == LINE_LIMIT) {
        buffer->cut = true;
        return false;
    }
    uint32_t *place = line->text + buffer->cursor;
    memmove(place + 1, place, (line->length - buffer->cursor) * sizeof *place);
    *place = character;
    line->length++;
    buffer->cursor++;
    return true;
}

bool buffer_erase(struct buffer *buffer, size_t from, size_t to) {
    struct line *line = buffer->line;
    if (from == to)
        return false;
    memmove(line->text + from, line->text + to, (line->length - to) * sizeof *line->text);
    line->length -= to - from;
    buffer->cut = buffer->cut && line->length > 0;
    buffer->cursor = from;
    return true;
}

bool buffer_cut_out(struct buffer *buffer, size_t from, size_t to) {
    if (from < to) {
        killed.length = to - from;
        memcpy(killed.text, buffer->line->text + from, killed.length * sizeof *killed.text);
    }
    return buffer_erase(buffer, from, to);
}

bool buffer_yank(struct buffer *buffer) {
    bool inserted = killed.length > 0;
    for (size_t i = 0; i < killed.length && inserted; i++)
        inserted = buffer_insert(buffer, killed.text[i]);
    return inserted;
}

bool buffer_transpose(struct buffer *buffer) {
    struct line *line = buffer->line;
    size_t right = buffer->cursor;
    if (right == line->length && right > 0)
        right--;
    if (right == 0)
        return false;
    uint32_t character = line->text[right];
    line->text[right] = line->text[right - 1];
    line->text[right - 1] = character;
    buffer->cursor = right + 1;
    return true;
}

size_t buffer_before(const struct buffer *buffer, size_t index) {
    while (index > 0 && columns_of(buffer->line->text[--index]) == 0)
        ;
    return index;
}

size_t buffer_after(const struct buffer *buffer, size_t index) {
    const struct line *line = buffer->line;
    if (index < line->length)
        index++;
    while (index < line->length && columns_of(line->text[index]) == 0)
        index++;
    return index;
}

bool is_blank(uint32_t character) {
    return character == ' ' || character == '\t' || character == '\n';
}

static bool is_word(uint32_t character) {
    return character >= 0x80 || (character >= '0' && character <= '9') ||
           ((character | 32) >= 'a' && (character | 32) <= 'z');
}

size_t buffer_word_begin(const struct buffer *buffer, size_t index) {
    const uint32_t *text = buffer->line->text;
    while (index > 0 && !is_word(text[index - 1]))
        index--;
    while (index > 0 && is_word(text[index - 1]))
        index--;
    return index;
}

size_t buffer_word_end(const struct buffer *buffer, size_t index) {
    const struct line *line = buffer->line;
    while (index < line->length && !is_word(line->text[index]))
        index++;
    while (index < line->length && is_word(line->text[index]))
        index++;
    return index;
}

size_t buffer_argument_begin(const struct buffer *buffer, size_t index) {
    const uint32_t *text = buffer->line->text;
    while (index > 0 && is_blank(text[index - 1]))
        index--;
    while (index > 0 && !is_blank(text[index - 1]))
        index--;
    return index;
}
