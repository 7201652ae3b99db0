/* Taking images out of a store: what was encoded of each, put together again; and comparing images with each other. */

#include <stdint.h>
#include <string.h>

#include "guard.h"
#include "inverted_file.h"

enum {
    STEP = 16,      /* entries that are looked at together: few are of a wanted image */
    FILTER = 16384, /* bytes, which stay in the nearest cache */
    WAITING = 256,  /* entries whose codes are being fetched: they lie anywhere in a large file */
};

/* An entry of a wanted image. */
struct wanted {
    int64_t entry;
    uint32_t word;
    int32_t number;
};

/* The arguments of howl_take. */
struct taking {
    struct inverted_file file;
    const int32_t *numbers;
    const int64_t *ends;
    int64_t *cursors;
    uint32_t *to_words;
    uint64_t *to_codes;
};

/* Puts entries behind those that their images have already. */
static void put(const struct taking *at, const struct wanted *waiting, int64_t count)
{
    const int64_t length = at->file.code_length;
    for (const struct wanted *own = waiting; own < waiting + count; own++) {
        const int64_t place = at->cursors[own->number];
        if (place >= at->ends[own->number]) /* of a damaged file */
            continue;
        at->cursors[own->number]++;
        at->to_words[place] = own->word;
        for (int64_t i = 0; i < length; i++)
            at->to_codes[place * length + i] = at->file.codes[own->entry * length + i];
    }
}

static void take(void *arguments)
{
    const struct taking at = *(struct taking *)arguments;
    const struct inverted_file file = at.file;
    uint8_t maybe[FILTER] = {0}; /* by the last bits of an image's number */
    for (int64_t image = 0; image < IMAGES; image++)
        maybe[image % FILTER] |= at.numbers[image] >= 0;
    struct wanted waiting[WAITING + STEP];
    int64_t count = 0;
    for (int64_t row = 0; row < file.rows; row++) {
        const int64_t end = file.offsets[row + 1];
        for (int64_t entry = file.offsets[row]; entry < end; entry += STEP) {
            const int64_t stop = entry + STEP < end ? entry + STEP : end;
            int any = 0;
            for (int64_t k = entry; k < stop; k++)
                any |= maybe[file.images[k] % FILTER];
            for (int64_t k = any ? entry : stop; k < stop; k++) {
                const int32_t number = at.numbers[file.images[k]]; /* read once: the file may change meanwhile */
                if (number < 0)
                    continue;
                __builtin_prefetch(file.codes + k * file.code_length);
                waiting[count++] = (struct wanted){k, file.words[row], number};
            }
            if (count >= WAITING) {
                put(&at, waiting, count);
                count = 0;
            }
        }
    }
    put(&at, waiting, count);
}

/* The inverted file as for howl_score; `numbers` int32 [65536] numbers the wanted images from 0, and is −1 for others.
   The words of image number i, ascending, and their codes go from `cursors[i]` on, which advances, up to `ends[i]`.
   Returns as howl_guarded. */
int howl_take(const uint32_t *words, const int64_t *offsets, int64_t rows, const uint16_t *images,
              const uint64_t *codes, int64_t code_length, const int32_t *numbers, const int64_t *ends, int64_t *cursors,
              uint32_t *to_words, uint64_t *to_codes)
{
    struct inverted_file file = {words, offsets, rows, images, codes, code_length};
    struct taking at = {file, numbers, ends, cursors, to_words, to_codes};
    return howl_guarded(take, &at);
}

/* The inverted file of `n` images as for howl_score, in memory. Adds the weight of every pair of entries of a word to
   `totals` int64 [n, n], in one of the two places that its two images have. */
void howl_compare(const int64_t *offsets, int64_t rows, const uint16_t *images, const uint64_t *codes,
                  int64_t code_length, const int64_t *weights, int64_t n, int64_t *totals)
{
    for (int64_t row = 0; row < rows; row++)
        for (int64_t a = offsets[row]; a < offsets[row + 1]; a++)
            for (int64_t b = offsets[row]; b <= a; b++)
                totals[images[a] * n + images[b]] +=
                    weights[hamming(codes + a * code_length, codes + b * code_length, code_length)];
}

/* The arguments of howl_take_rows. */
struct copying {
    const uint16_t *from;
    const int64_t *rows;
    int64_t count, length;
    uint16_t *to;
};

static void copy_rows(void *arguments)
{
    const struct copying at = *(struct copying *)arguments;
    for (int64_t i = 0; i < at.count; i++)
        memcpy(at.to + i * at.length, at.from + at.rows[i] * at.length, (size_t)at.length * sizeof *at.to);
}

/* Copies `count` rows of vectors, float16 [n, length], to `to` [count, length]. Returns as howl_guarded. */
int howl_take_rows(const uint16_t *from, int64_t length, const int64_t *rows, int64_t count, uint16_t *to)
{
    struct copying at = {from, rows, count, length, to};
    return howl_guarded(copy_rows, &at);
}
