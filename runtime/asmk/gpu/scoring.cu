/* ASMK on a GPU: the arithmetic of runtime/native/scoring.c and ranking.c, to the bit.

   Totals are integers, so the order of their terms does not matter. Threads share only totals and counters: no kernel
   waits for another thread. The host defines CODE_LENGTH, the number of 64-bit words of a code, and BINS. */

#if !defined(CODE_LENGTH) || !defined(BINS)
#error "CODE_LENGTH and BINS must be defined"
#endif

typedef unsigned short uint16;
typedef unsigned int uint32;
typedef unsigned long long uint64;
typedef long long int64;

enum {
    ENTRY_BATCH = 4, /* entries that a thread requests before it waits for the first: memory is slow to answer */
    OCTAVES = 32,    /* of scores with bins of their own; the first bin takes what is below 2^-31 */
    BIN_SHIFT = 45,  /* of the bits of a score: what is left distinguishes 128 bins per octave */
    BINS_A_STEP = 32
};
static_assert(BINS == OCTAVES << (52 - BIN_SHIFT), "BINS are not those of the octaves");

/* An inverted file; five 64-bit numbers on the host. */
struct file {
    const uint64 *codes;   /* [entries, CODE_LENGTH] */
    const uint16 *images;  /* [entries] */
    const uint64 *offsets; /* [words + 1], where the entries of every word begin and end */
    uint64 words;
    uint64 first; /* number of its first image in the whole index */
};

struct hit {
    double score;
    int64 image;
};

struct code {
    uint64 parts[CODE_LENGTH];
};

/* Data that a search reads once should not evict the totals from the cache: hence __ldcs here and below. */
static __device__ struct code load_code(const uint64 *address)
{
    struct code code;
#if CODE_LENGTH % 2 == 0
#pragma unroll
    for (int i = 0; i < CODE_LENGTH; i += 2) {
        const ulonglong2 two = __ldcs((const ulonglong2 *)(address + i));
        code.parts[i] = two.x;
        code.parts[i + 1] = two.y;
    }
#else
#pragma unroll
    for (int i = 0; i < CODE_LENGTH; i++)
        code.parts[i] = __ldcs(address + i);
#endif
    return code;
}

static __device__ uint32 hamming(const struct code *a, const struct code *b)
{
    uint32 different = 0;
#pragma unroll
    for (int i = 0; i < CODE_LENGTH; i++)
        different += __popcll(a->parts[i] ^ b->parts[i]);
    return different;
}

/* Block (x, y) adds the weights of the entries of `words[x]` in the y-th file to the totals [queries, images]. The word
   belongs to query `queries[x]`, which has `codes[x]` for it. From `cutoff` on, distances have no weight, and
   `weights[cutoff]` is 0. */
extern "C" __global__ void add_weights(const struct file *files, const uint32 *words, const uint32 *queries,
                                      const uint64 *codes, const uint64 *weights, uint32 cutoff, uint64 images,
                                      uint64 *totals)
{
    const struct file file = files[blockIdx.y];
    const uint32 word = words[blockIdx.x];
    if (word >= file.words)
        return;
    const uint64 begin = file.offsets[word];
    const uint32 entries = (uint32)(file.offsets[word + 1] - begin);
    const uint64 *entry_codes = file.codes + begin * CODE_LENGTH;
    const uint16 *entry_images = file.images + begin;
    const struct code query = load_code(codes + (uint64)blockIdx.x * CODE_LENGTH);
    uint64 *own = totals + queries[blockIdx.x] * images + file.first;

    for (uint32 first = threadIdx.x; first < entries; first += ENTRY_BATCH * blockDim.x) {
        struct code there[ENTRY_BATCH];
        uint32 places[ENTRY_BATCH];
        uint64 found[ENTRY_BATCH];
#pragma unroll
        for (int i = 0; i < ENTRY_BATCH; i++) { /* beyond the end the last one again: a branch would wait */
            const uint32 entry = min(first + i * blockDim.x, entries - 1);
            there[i] = load_code(entry_codes + (uint64)entry * CODE_LENGTH);
            places[i] = __ldcs(entry_images + entry);
        }
#pragma unroll
        for (int i = 0; i < ENTRY_BATCH; i++) {
            const uint32 distance = min(hamming(&there[i], &query), cutoff);
            found[i] = __ldg(weights + (first + i * blockDim.x < entries ? distance : cutoff));
        }
#pragma unroll
        for (int i = 0; i < ENTRY_BATCH; i++)
            if (found[i] != 0)
                atomicAdd(own + places[i], found[i]);
    }
}

/* Above 0 for hits only. Images without words, and removed ones, have a word count of 0. */
static __device__ double score_of(int64 total, double unit, uint32 query_words, uint32 word_count)
{
    if (total <= 0 || word_count == 0)
        return 0;
    return (double)total * unit / sqrt((double)query_words * (double)word_count);
}

/* A larger score never has a lower bin: the bits of positive doubles have the same order as the doubles. */
static __device__ uint32 bin_of(double score)
{
    const int64 bin = (__double_as_longlong(score) >> BIN_SHIFT) - ((int64)(1023 - (OCTAVES - 1)) << (52 - BIN_SHIFT));
    return (uint32)min(max(bin, (int64)0), (int64)(BINS - 1));
}

/* One thread per image, blocks (x, query): counts the hits in every bin, [queries, BINS]. */
extern "C" __global__ void count_hits(const int64 *totals, const uint32 *word_counts, uint64 images,
                                      const uint32 *query_words, double unit, uint32 *counts)
{
    const uint64 image = (uint64)blockIdx.x * blockDim.x + threadIdx.x, query = blockIdx.y;
    if (image >= images)
        return;
    const double score = score_of(totals[query * images + image], unit, query_words[query], word_counts[image]);
    if (score > 0)
        atomicAdd(counts + query * BINS + bin_of(score), 1u);
}

/* One thread per query: the highest bin that has `top` hits together with the bins above it, or 0. */
extern "C" __global__ void find_lowest(const uint32 *counts, uint32 queries, uint32 top, uint32 *lowest)
{
    const uint32 query = blockIdx.x * blockDim.x + threadIdx.x;
    if (query >= queries)
        return;
    const uint32 *own = counts + (uint64)query * BINS;
    uint32 found = 0, bin = BINS;
    while (bin > 0) {
        uint32 some = 0;
#pragma unroll
        for (int i = 1; i <= BINS_A_STEP; i++)
            some += own[bin - i];
        if (found + some >= top)
            break;
        found += some;
        bin -= BINS_A_STEP;
    }
    while (bin > 0 && found < top)
        found += own[--bin];
    lowest[query] = bin;
}

/* Threads as for count_hits: writes the hits from the lowest bin on to [queries, capacity], in any order. `found`
   [queries] counts all of them, including those without room. */
extern "C" __global__ void collect_hits(const int64 *totals, const uint32 *word_counts, uint64 images,
                                        const uint32 *query_words, double unit, const uint32 *lowest, uint32 capacity,
                                        uint32 *found, struct hit *hits)
{
    const uint64 image = (uint64)blockIdx.x * blockDim.x + threadIdx.x, query = blockIdx.y;
    if (image >= images)
        return;
    const double score = score_of(totals[query * images + image], unit, query_words[query], word_counts[image]);
    if (!(score > 0) || bin_of(score) < lowest[query])
        return;
    const uint32 place = atomicAdd(found + query, 1u);
    if (place < capacity) {
        hits[query * capacity + place].score = score;
        hits[query * capacity + place].image = (int64)image;
    }
}
