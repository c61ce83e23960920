#include <string.h>
#include <unistd.h>

#include "module.h"
#include "pq.h"

/* A handle is the entry's index and, above it, how often the entry was used: 64-bit handles do not come round. */
enum { INDEX_BITS = 16, MAX_SESSIONS = 1 << INDEX_BITS };

static struct entry {
  CK_SESSION_HANDLE handle; /* 0: free */
  CK_SESSION_HANDLE real;
  CK_SLOT_ID slot;
  uint64_t uses;
} entries[MAX_SESSIONS];

/* Held for reading by every call that is in the module behind, for writing where sessions are taken away from under the
 * caller. Writers go first: sixteen busy threads would keep a drop out for ever. `table` guards the entries among readers. */
static pthread_rwlock_t calls;
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint32_t next_free = 1;
static uint64_t drop_epoch;           /* guarded by calls */
static _Atomic uint64_t wedge_epoch;
static struct process *_Atomic here;  /* written under calls */
static struct process nowhere;

static void make_lock(void) {
  pthread_rwlockattr_t attr;
  pthread_rwlockattr_init(&attr);
  pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init(&calls, &attr);
  pthread_rwlockattr_destroy(&attr);
}

struct process *process_here(void) {
  struct process *p = here;
  return p != NULL ? p : &nowhere;
}

/* Takes a place in the table of processes: a free one or that of a process that has died. */
static struct process *enrol(void) {
  for (int i = 0; i < MAX_PROCESSES; i++) {
    struct process *p = &control->processes[i];
    int32_t old = atomic_load(&p->pid);
    if (process_alive(old) || !atomic_compare_exchange_strong(&p->pid, &old, (int32_t)getpid())) continue;
    atomic_store(&p->sessions, 0);
    atomic_store(&p->peak, 0);
    atomic_store(&p->hanging, 0);
    return p;
  }
  return &nowhere;
}

static void forget_all(void) {
  pthread_mutex_lock(&table);
  for (int i = 0; i < MAX_SESSIONS; i++) entries[i].handle = 0;
  atomic_store(&process_here()->sessions, 0);
  pthread_mutex_unlock(&table);
}

/* Every session of this process is closed behind the caller's back, as by a device that restarted: logins, session objects
 * and operations go with them. */
static void drop(void) {
  for (int i = 0; i < MAX_SESSIONS; i++) {
    if (entries[i].handle == 0) continue;
    CK_SLOT_ID slot = entries[i].slot;
    for (int k = i; k < MAX_SESSIONS; k++)
      if (entries[k].slot == slot) entries[k].handle = 0;
    /* What it answers changes nothing: to the caller the handles are dead. */
    (void)real->C_CloseAllSessions(slot);
  }
  forget_all();
}

CK_RV sessions_enter(void) {
  if (real == NULL) return CKR_CRYPTOKI_NOT_INITIALIZED;
  pthread_once(&once, make_lock);
  for (;;) {
    pthread_rwlock_rdlock(&calls);
    if (atomic_load(&control->drop_epoch) == drop_epoch) break;
    pthread_rwlock_unlock(&calls);
    pthread_rwlock_wrlock(&calls);
    uint64_t epoch = atomic_load(&control->drop_epoch);
    if (epoch != drop_epoch) {
      drop();
      drop_epoch = epoch;
    }
    pthread_rwlock_unlock(&calls);
  }
  uint64_t wedge_rv = atomic_load(&control->wedge_rv);
  if (wedge_rv != 0 && here != NULL && atomic_load(&control->wedge_epoch) != atomic_load(&wedge_epoch)) {
    pthread_rwlock_unlock(&calls);
    return (CK_RV)wedge_rv;
  }
  return CKR_OK;
}

void sessions_leave(void) { pthread_rwlock_unlock(&calls); }

CK_RV session_enter(CK_SESSION_HANDLE handle, CK_SESSION_HANDLE *real_handle) {
  CK_RV rv = sessions_enter();
  if (rv != CKR_OK) return rv;
  if (atomic_load(&control->gone) != TOKEN_THERE)
    rv = (CK_RV)atomic_load(&control->gone_rv);
  else if (here == NULL)
    rv = CKR_CRYPTOKI_NOT_INITIALIZED;
  else {
    struct entry *e = &entries[handle % MAX_SESSIONS];
    pthread_mutex_lock(&table);
    if (handle == 0 || e->handle != handle) rv = CKR_SESSION_HANDLE_INVALID;
    *real_handle = e->real;
    pthread_mutex_unlock(&table);
  }
  if (rv != CKR_OK) sessions_leave();
  return rv;
}

bool sessions_full(void) {
  uint64_t max = atomic_load(&control->session_max), sum = 0;
  if (max == 0) return false;
  for (int i = 0; i < MAX_PROCESSES; i++) {
    struct process *p = &control->processes[i];
    if (atomic_load(&p->sessions) > 0 && process_alive(atomic_load(&p->pid))) sum += (uint64_t)atomic_load(&p->sessions);
  }
  return sum >= max;
}

CK_RV session_add(CK_SLOT_ID slot, CK_SESSION_HANDLE real_handle, CK_SESSION_HANDLE *handle) {
  CK_RV rv = CKR_SESSION_COUNT;
  pthread_mutex_lock(&table);
  for (uint32_t tried = 0; tried < MAX_SESSIONS; tried++, next_free++) {
    uint32_t index = next_free % MAX_SESSIONS;
    struct entry *e = &entries[index];
    if (index == 0 || e->handle != 0) continue;
    e->uses++;
    e->handle = (CK_SESSION_HANDLE)(e->uses << INDEX_BITS | index);
    e->real = real_handle;
    e->slot = slot;
    *handle = e->handle;
    int64_t open = atomic_fetch_add(&process_here()->sessions, 1) + 1;
    if (open > atomic_load(&process_here()->peak)) atomic_store(&process_here()->peak, open);
    next_free++;
    rv = CKR_OK;
    break;
  }
  pthread_mutex_unlock(&table);
  return rv;
}

void session_remove(CK_SESSION_HANDLE handle) {
  pthread_mutex_lock(&table);
  struct entry *e = &entries[handle % MAX_SESSIONS];
  if (handle != 0 && e->handle == handle) {
    e->handle = 0;
    atomic_fetch_sub(&process_here()->sessions, 1);
  }
  pthread_mutex_unlock(&table);
}

void sessions_remove_slot(CK_SLOT_ID slot) {
  pthread_mutex_lock(&table);
  for (int i = 0; i < MAX_SESSIONS; i++)
    if (entries[i].handle != 0 && entries[i].slot == slot) {
      entries[i].handle = 0;
      atomic_fetch_sub(&process_here()->sessions, 1);
    }
  pthread_mutex_unlock(&table);
}

/* Some modules (NSS) read one pointer more than the standard's structure has. */
struct initialize_args {
  CK_C_INITIALIZE_ARGS standard;
  void *more;
};

CK_RV module_initialize(void *args) {
  pthread_once(&once, make_lock);
  struct initialize_args ours = {.standard = {.flags = CKF_OS_LOCKING_OK}};
  if (reserved != NULL) {
    if (args != NULL) ours.standard = *(CK_C_INITIALIZE_ARGS *)args;
    ours.standard.pReserved = reserved;
    args = &ours;
  }
  pthread_rwlock_wrlock(&calls);
  CK_RV rv = real->C_Initialize(args);
  if (rv == CKR_OK) {
    here = enrol();
    forget_all();
    drop_epoch = atomic_load(&control->drop_epoch);
    atomic_store(&wedge_epoch, atomic_load(&control->wedge_epoch));
  }
  pthread_rwlock_unlock(&calls);
  return rv;
}

CK_RV module_finalize(void *args) {
  pthread_once(&once, make_lock);
  pthread_rwlock_wrlock(&calls);
  CK_RV rv = real->C_Finalize(args);
  if (rv == CKR_OK) pq_end();
  if (rv == CKR_OK && here != NULL) {
    forget_all();
    if (here != &nowhere) atomic_store(&process_here()->pid, 0);
    here = NULL;
  }
  pthread_rwlock_unlock(&calls);
  return rv;
}
