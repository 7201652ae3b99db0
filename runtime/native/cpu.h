/* Which versions of a function the processor and the operating system can run. */

#ifndef HOWL_CPU_H
#define HOWL_CPU_H

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

/* AVX-512 as of Ice Lake and Zen 4: foundation, BW, VL, VNNI and VPOPCNTDQ. */
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq,bmi2,popcnt")))

/* AVX with conversions from half precision, of every x86-64 processor since 2013. */
#define F16C __attribute__((target("avx,f16c")))

static inline int has_f16c(void)
{
    unsigned a, b, c, d, low = 0, high = 0;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX) || !(c & bit_F16C))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6; /* the system saves XMM and YMM registers */
}

static inline int has_avx512(void)
{
    static int known = -1;
    if (known >= 0)
        return known;
    unsigned a, b = 0, c = 0, d;
    unsigned low = 0, high = 0;
    known = 0;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return known;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0xe6) != 0xe6) /* the system saves XMM, YMM, ZMM and mask registers */
        return known;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return known;
    unsigned need_b = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL | bit_BMI2;
    unsigned need_c = bit_AVX512VNNI | bit_AVX512VPOPCNTDQ;
    known = (b & need_b) == need_b && (c & need_c) == need_c;
    return known;
}

#else

#define has_avx512() 0
#define has_f16c() 0

#endif
#endif
