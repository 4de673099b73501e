/* How threads that run neighbouring stretches of one trace wait for each other. */

#pragma once

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static void wait_for(_Atomic int64_t *done, int64_t position) {
    for (int spins = 0; atomic_load_explicit(done, memory_order_acquire) < position; spins++) {
        if (spins > 200) sched_yield();
#if defined(__x86_64__)
        else _mm_pause();
#elif defined(__aarch64__)
        else __asm__ volatile("yield");
#endif
    }
}
