/*
 * From a line to the arguments of one command. Spaces (and pasted tabs) separate words, single and double
 * quotes and the backslash keep them together, and everything else is what it is: nothing is expanded or
 * substituted, by nobody.
 */
#ifndef WORDS_H
#define WORDS_H

#include "text.h"

enum split_result {
    SPLIT_WORDS,     /* `count` words, perhaps none */
    SPLIT_UNCLOSED,  /* a quote is not closed */
    SPLIT_BACKSLASH, /* the line ends in a backslash */
    SPLIT_OPERATOR   /* `operator` stands outside of quotes: the user expects what this shell does not do */
};

struct words {
    size_t count;
    char *argv[LINE_LIMIT / 2 + 2]; /* ended by NULL; points into `bytes` */
    uint32_t operator;
    size_t consumed; /* characters of the line up to and with the line break after this command */
    char bytes[4 * LINE_LIMIT + LINE_LIMIT];
};

/* Split the first command of `line`: up to a line break outside of quotes, which only pasted text has. */
enum split_result split_line(const struct line *line, struct words *words);

#endif
