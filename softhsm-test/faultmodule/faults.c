#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "module.h"

/* Whether the rule takes this call. The choice by share is splitmix64 of seed and call number, so that a seed gives the same
 * faults again. */
static bool takes(struct rule *r) {
  uint64_t n = r->seen++;
  if (n < r->skip) return false;
  if (r->every > 1 && (n - r->skip + 1) % r->every != 0) return false;
  if (r->times != 0 && r->fired >= r->times) return false;
  if (r->p > 0) {
    uint64_t x = r->seed + (n + 1) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    x ^= x >> 31;
    if ((double)(x >> 11) * 0x1p-53 >= r->p) return false;
  }
  r->fired++;
  return true;
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_until(int64_t when) {
  static _Thread_local bool exact;
  if (!exact) {
    /* The default slack lets every sleep be 50 us late, a fortieth of a 2 ms device. */
    prctl(PR_SET_TIMERSLACK, 1UL);
    exact = true;
  }
  struct timespec t = {.tv_sec = when / 1000000000, .tv_nsec = when % 1000000000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) continue;
}

/* A queued delay is a device that does one thing at a time, whoever asks, in whatever process. */
static void delay(const struct rule *r) {
  int64_t start = now(), end = start + r->value;
  if (r->mode != 0) {
    int64_t busy = atomic_load(&control->busy_until);
    do {
      end = (busy > start ? busy : start) + r->value;
    } while (!atomic_compare_exchange_weak(&control->busy_until, &busy, end));
  }
  sleep_until(end);
}

static void hang(uint32_t gen) {
  struct process *p = process_here();
  atomic_fetch_add(&p->hanging, 1);
  while (atomic_load(&control->release) == gen) {
    struct timespec t = {.tv_sec = 1};
    syscall(SYS_futex, &control->release, FUTEX_WAIT, gen, &t, NULL, 0);
  }
  atomic_fetch_sub(&p->hanging, 1);
}

static void crash(int64_t how) {
  volatile int *volatile nowhere = NULL;
  switch (how) {
  case CRASH_SEGV:
    *nowhere = 1;
    break;
  case CRASH_ABORT:
    abort();
  case CRASH_EXIT:
    _exit(3);
  default:
    raise(SIGKILL);
  }
}

bool call_begin(struct call *c, enum function fn) {
  memset(c, 0, sizeof *c);
  c->fn = fn;
  if (control == NULL || real == NULL) {
    c->rv = fn == FN_C_Initialize ? CKR_GENERAL_ERROR : CKR_CRYPTOKI_NOT_INITIALIZED;
    return false;
  }
  struct function_state *f = &control->functions[fn];
  atomic_fetch_add_explicit(&f->calls, 1, memory_order_relaxed);
  if (atomic_load(&f->armed) == 0) return true;

  struct rule taken[KIND_COUNT] = {0};
  control_lock(control);
  c->gen = atomic_load(&control->release);
  for (int kind = 0; kind < KIND_COUNT; kind++)
    if (f->rules[kind].armed && takes(&f->rules[kind])) {
      taken[kind] = f->rules[kind];
      atomic_fetch_add(&f->fired, 1);
    }
  control_unlock(control);

  c->length = taken[KIND_LENGTH];
  c->corrupt = taken[KIND_CORRUPT];
  const struct rule *r = &taken[KIND_DELAY];
  if (r->armed) delay(r);
  r = &taken[KIND_HANG];
  if (r->armed && !r->after) hang(c->gen);
  c->after_hang = r->armed && r->after;
  r = &taken[KIND_CRASH];
  if (r->armed && !r->after) crash(r->value);
  c->after_crash = r->armed && r->after;
  c->crash = r->value;
  r = &taken[KIND_RV];
  c->rv = (CK_RV)r->value;
  c->after_rv = r->armed && r->after;
  return !r->armed || r->after;
}

static void lie(const struct rule *r, CK_ULONG *length) {
  *length = r->mode == LENGTH_SET ? (CK_ULONG)r->value : *length + (CK_ULONG)r->value;
}

static void spoil(const struct rule *r, CK_BYTE *buffer, CK_ULONG length) {
  for (CK_ULONG i = 0; i < length; i++)
    buffer[i] = r->mode == CORRUPT_FILL ? (CK_BYTE)r->value : buffer[i] ^ (CK_BYTE)r->value;
}

static CK_RV answer(struct call *c, CK_RV rv) {
  if (c->after_hang) hang(c->gen);
  if (c->after_crash) crash(c->crash);
  if (c->after_rv) rv = c->rv;
  if (rv != CKR_OK && control != NULL) atomic_fetch_add(&control->functions[c->fn].failed, 1);
  return rv;
}

CK_RV call_end(struct call *c, CK_RV rv, void *buffer, CK_ULONG *length, bool query) {
  if (rv == CKR_OK && length != NULL) {
    if (c->corrupt.armed && !query && buffer != NULL) spoil(&c->corrupt, buffer, *length);
    if (c->length.armed && (c->length.on & (query ? ON_QUERY : ON_DATA))) lie(&c->length, length);
  }
  return answer(c, rv);
}

CK_RV call_end_attributes(struct call *c, CK_RV rv, CK_ATTRIBUTE *attributes, CK_ULONG count) {
  for (CK_ULONG i = 0; rv == CKR_OK && attributes != NULL && i < count; i++) {
    bool query = attributes[i].pValue == NULL;
    if (c->corrupt.armed && !query) spoil(&c->corrupt, attributes[i].pValue, attributes[i].ulValueLen);
    if (c->length.armed && (c->length.on & (query ? ON_QUERY : ON_DATA))) lie(&c->length, &attributes[i].ulValueLen);
  }
  return answer(c, rv);
}
