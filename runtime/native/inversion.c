/* Building inverted files: entries are counted word by word, then each is put in its place. Two passes, no sorting. */

#include <stdint.h>
#include <string.h>

static inline void copy_code(uint64_t *to, const uint64_t *from, int64_t length)
{
    for (int64_t i = 0; i < length; i++)
        to[i] = from[i];
}

/* Images one after the other: `words` uint32 [entries] in all, of which each image has `word_counts`. `cursors` int64,
   by word, say where its next entry goes, and advance. `geometry` and `to_geometry` are NULL if there is none. */
void howl_place(const uint32_t *words, const uint64_t *codes, int64_t code_length, const uint32_t *geometry,
                const uint32_t *word_counts, int64_t images, int64_t *cursors, uint16_t *to_images, uint64_t *to_codes,
                uint32_t *to_geometry)
{
    int64_t entry = 0;
    for (int64_t image = 0; image < images; image++) {
        for (uint32_t i = 0; i < word_counts[image]; i++, entry++) {
            int64_t place = cursors[words[entry]]++;
            to_images[place] = (uint16_t)image;
            copy_code(to_codes + place * code_length, codes + entry * code_length, code_length);
            if (to_geometry)
                to_geometry[place] = geometry[entry];
        }
    }
}

/* Entries of an inverted file whose images are kept: `numbers` int32 [65536] gives the new number of an image, or −1.
   Adds to `counts` int64 [rows]. */
void howl_count_kept(const int64_t *offsets, int64_t rows, const uint16_t *images, const int32_t *numbers,
                     int64_t *counts)
{
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t entry = offsets[row]; entry < offsets[row + 1]; entry++)
            counts[row] += numbers[images[entry]] >= 0;
    }
}

/* Copies those entries to their places: `cursors` int64 [rows] as in howl_place. */
void howl_place_kept(const int64_t *offsets, int64_t rows, const uint16_t *images, const uint64_t *codes,
                     int64_t code_length, const uint32_t *geometry, const int32_t *numbers, int64_t *cursors,
                     uint16_t *to_images, uint64_t *to_codes, uint32_t *to_geometry)
{
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t entry = offsets[row]; entry < offsets[row + 1]; entry++) {
            int32_t number = numbers[images[entry]];
            if (number < 0)
                continue;
            int64_t place = cursors[row]++;
            to_images[place] = (uint16_t)number;
            copy_code(to_codes + place * code_length, codes + entry * code_length, code_length);
            if (to_geometry)
                to_geometry[place] = geometry[entry];
        }
    }
}
