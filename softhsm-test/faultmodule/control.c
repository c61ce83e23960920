#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FUNCTION_NAME(name) #name,
const char *const function_names[FN_COUNT] = {FUNCTIONS(FUNCTION_NAME) FUNCTIONS_3_2(FUNCTION_NAME)};

/* Carries the layout's size: a block that another build made is refused. */
#define MAGIC (UINT64_C(0x4b5746415500) << 16 | (sizeof(struct control) & 0xffff))

static void init_block(struct control *c) {
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&c->lock, &attr);
  pthread_mutexattr_destroy(&attr);
  c->magic = MAGIC;
}

struct control *control_open(const char *path, bool *made) {
  *made = false;
  if (path == NULL) {
    struct control *c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (c == MAP_FAILED) return NULL;
    init_block(c);
    *made = true;
    return c;
  }
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return NULL;
  struct control *c = NULL;
  struct stat st;
  if (flock(fd, LOCK_EX) != 0 || fstat(fd, &st) != 0) goto out;
  bool fresh = st.st_size == 0;
  if (fresh && ftruncate(fd, sizeof *c) != 0) goto out;
  if (!fresh && st.st_size != (off_t)sizeof *c) {
    errno = EINVAL;
    goto out;
  }
  void *map = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) goto out;
  c = map;
  if (fresh) {
    init_block(c);
    *made = true;
  } else if (c->magic != MAGIC) {
    munmap(map, sizeof *c);
    c = NULL;
    errno = EINVAL;
  }
out:;
  int saved = errno;
  flock(fd, LOCK_UN); /* by hand: the mapping keeps the open file, and the lock with it */
  close(fd);
  errno = saved;
  return c;
}

void control_lock(struct control *c) {
  /* A process that died with the lock held leaves rules that are whole enough: each field is a plain number. */
  if (pthread_mutex_lock(&c->lock) == EOWNERDEAD) pthread_mutex_consistent(&c->lock);
}

void control_unlock(struct control *c) { pthread_mutex_unlock(&c->lock); }

bool process_alive(pid_t pid) { return pid > 0 && (kill(pid, 0) == 0 || errno == EPERM); }
