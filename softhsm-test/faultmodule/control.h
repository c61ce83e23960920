/* The control block: what the module is told to do and what it has seen, in a file that every process maps. So one command
 * reaches all processes that have the module loaded, the counts outlive a crash, and a restarted process finds the device
 * as faulty as its predecessor left it. Zeroes are a module without faults. */
#ifndef CONTROL_H
#define CONTROL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "functions.h"

enum kind { KIND_RV, KIND_DELAY, KIND_HANG, KIND_CRASH, KIND_LENGTH, KIND_CORRUPT, KIND_COUNT };
enum crash { CRASH_SEGV, CRASH_ABORT, CRASH_EXIT, CRASH_KILL };
enum length { LENGTH_ADD, LENGTH_SET };
enum { ON_DATA = 1, ON_QUERY = 2 };
enum corrupt { CORRUPT_XOR, CORRUPT_FILL };
enum gone { TOKEN_THERE, TOKEN_ABSENT, TOKEN_EMPTY };

/* One fault of one function, with the calls that it chooses. Guarded by control.lock. */
struct rule {
  bool armed;
  bool after;           /* the real call is made first and its answer lost */
  uint64_t skip;        /* leave that many calls alone */
  uint64_t every;       /* then every n-th; 0 and 1 are each */
  uint64_t times;       /* then no more; 0 is no bound */
  double p;             /* of those, this share; 0 is all */
  uint64_t seed;        /* the share's choice, a function of seed and call number */
  uint64_t seen, fired; /* calls since it was set; of those, faulty ones */
  int64_t value;        /* CK_RV, nanoseconds, enum crash, length, byte */
  int mode;             /* enum length, enum corrupt, 1 for a queued delay */
  int on;               /* ON_DATA, ON_QUERY */
};

struct function_state {
  _Atomic uint64_t calls, failed, fired;
  _Atomic uint32_t armed; /* bit per kind, so that a call without faults takes no lock */
  struct rule rules[KIND_COUNT];
};

/* A process with the module initialised. pid 0 is a free place. */
struct process {
  _Atomic int32_t pid;
  _Atomic int64_t sessions, peak;
  _Atomic int32_t hanging;
};

struct mechanism {
  uint64_t type, min, max, flags;
  bool hidden; /* taken from the list instead of added */
};

enum { MAX_PROCESSES = 128, MAX_MECHANISMS = 64 };

struct control {
  uint64_t magic;
  pthread_mutex_t lock; /* robust, across processes; guards the rules and the mechanisms */
  _Atomic uint64_t drop_epoch, wedge_epoch;
  _Atomic uint64_t wedge_rv, gone_rv;
  _Atomic int gone; /* enum gone */
  _Atomic uint32_t release; /* futex: hanging calls wait for it to change */
  _Atomic int64_t busy_until; /* CLOCK_MONOTONIC: queued delays follow one another */
  _Atomic uint64_t session_max, session_report;
  _Atomic uint64_t pin_limit, pin_wrong_now, pin_wrong;
  _Atomic uint32_t mechanism_count;
  struct mechanism mechanisms[MAX_MECHANISMS];
  struct process processes[MAX_PROCESSES];
  struct function_state functions[FN_COUNT];
};

extern const char *const function_names[FN_COUNT];

/* Maps the block in the file, which is made if it is not there; NULL is a block of this process alone. *made says whether
 * this call made it. Returns NULL with errno. */
struct control *control_open(const char *path, bool *made);
void control_lock(struct control *c);
void control_unlock(struct control *c);
bool process_alive(pid_t pid);

/* Executes one line and writes the reply, one line or more, the last of which begins with "ok" or "error". */
void command(struct control *c, const char *line, FILE *reply);

#endif
