/* Durations, and what the report says of them. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SAMPLES = 1 << 24 };

typedef struct { uint32_t count, us[SAMPLES]; } Samples; /* microseconds; memory is touched only as far as it is used */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sample(Samples *samples, uint64_t ns) {
    if (samples->count < SAMPLES) samples->us[samples->count++] = (uint32_t)(ns / 1000);
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, Samples *samples) {
    uint32_t n = samples->count;
    printf(",\"%s\":{\"count\":%u", name, n);
    if (n) {
        qsort(samples->us, n, sizeof *samples->us, by_value);
        printf(",\"p50\":%.3f,\"p99\":%.3f,\"p99.9\":%.3f,\"max\":%.3f", samples->us[n / 2] / 1e3,
               samples->us[(uint64_t)n * 99 / 100] / 1e3, samples->us[(uint64_t)n * 999 / 1000] / 1e3,
               samples->us[n - 1] / 1e3);
    }
    printf("}");
}
