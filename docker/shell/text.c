#include "text.h"

struct range {
    uint32_t first, last;
};

#include "width_table.h"

enum utf8_result utf8_decode(struct utf8 *decoder, unsigned char byte) {
    if (decoder->missing > 0) {
        if ((byte & 0xC0) != 0x80) {
            *decoder = (struct utf8){0};
            return UTF8_BAD_BEFORE;
        }
        decoder->value = decoder->value << 6 | (byte & 0x3F);
        if (--decoder->missing > 0)
            return UTF8_MORE;
        bool surrogate = decoder->value >= 0xD800 && decoder->value <= 0xDFFF;
        bool good = decoder->value >= decoder->least && decoder->value <= 0x10FFFF && !surrogate;
        return good ? UTF8_DONE : UTF8_BAD;
    }
    if (byte < 0x80)
        *decoder = (struct utf8){.value = byte};
    else if (byte >= 0xC2 && byte <= 0xDF)
        *decoder = (struct utf8){.value = byte & 0x1F, .least = 0x80, .missing = 1};
    else if (byte >= 0xE0 && byte <= 0xEF)
        *decoder = (struct utf8){.value = byte & 0x0F, .least = 0x800, .missing = 2};
    else if (byte >= 0xF0 && byte <= 0xF4)
        *decoder = (struct utf8){.value = byte & 0x07, .least = 0x10000, .missing = 3};
    else
        return UTF8_BAD;
    return decoder->missing > 0 ? UTF8_MORE : UTF8_DONE;
}

size_t utf8_encode(uint32_t character, char out[4]) {
    if (character < 0x80) {
        out[0] = (char)character;
        return 1;
    }
    size_t length = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (character & 0x3F));
        character >>= 6;
    }
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    out[0] = (char)(lead[length] | character);
    return length;
}

bool is_printable(uint32_t character) {
    bool control = character < 0x20 || (character >= 0x7F && character < 0xA0);
    bool separator = character == 0x2028 || character == 0x2029;
    bool surrogate = character >= 0xD800 && character <= 0xDFFF;
    return !control && !separator && !surrogate && character <= 0x10FFFF;
}

static bool within(const struct range *ranges, size_t count, uint32_t character) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (character > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && character >= ranges[low].first;
}

unsigned columns_of(uint32_t character) {
    if (character < 0x300)
        return 1;
    if (within(zero_columns, sizeof zero_columns / sizeof *zero_columns, character))
        return 0;
    return within(two_columns, sizeof two_columns / sizeof *two_columns, character) ? 2 : 1;
}

bool line_from_utf8(struct line *line, const char *bytes) {
    struct utf8 decoder = {0};
    line->length = 0;
    for (; *bytes != 0; bytes++) {
        enum utf8_result result = utf8_decode(&decoder, (unsigned char)*bytes);
        if (result == UTF8_MORE)
            continue;
        if (result != UTF8_DONE || !is_printable(decoder.value) || line->length == LINE_LIMIT)
            return false;
        line->text[line->length++] = decoder.value;
    }
    return decoder.missing == 0;
}
