/* The inverted file, and the distance of its codes. */

#ifndef HOWL_INVERTED_FILE_H
#define HOWL_INVERTED_FILE_H

#include <stdint.h>

enum { IMAGES = 65536 }; /* of a file: as many as uint16 can number */

struct inverted_file {
    const uint32_t *words; /* ascending */
    const int64_t *offsets;
    int64_t rows;
    const uint16_t *images;
    const uint64_t *codes;
    int64_t code_length;
};

static inline int64_t hamming(const uint64_t *a, const uint64_t *b, int64_t length)
{
    int64_t different = 0;
    for (int64_t i = 0; i < length; i++)
        different += __builtin_popcountll(a[i] ^ b[i]);
    return different;
}

#endif
