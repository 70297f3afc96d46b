#include "history.h"

#include <string.h>

static struct line lines[HISTORY_LIMIT];
static size_t total; /* lines ever added */

const struct line *history_line(size_t age) {
    if (age >= total || age >= HISTORY_LIMIT)
        return NULL;
    return &lines[(total - 1 - age) % HISTORY_LIMIT];
}

void history_add(const struct line *line) {
    const struct line *newest = history_line(0);
    size_t size = line->length * sizeof *line->text;
    if (line->length == 0)
        return;
    if (newest != NULL && newest->length == line->length && memcmp(newest->text, line->text, size) == 0)
        return;
    struct line *slot = &lines[total++ % HISTORY_LIMIT];
    slot->length = line->length;
    memcpy(slot->text, line->text, size);
}
