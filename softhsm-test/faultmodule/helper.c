/* The line to the helper, a process of each process that has the module initialised and uses such a key. It ends with its input, so also when this process is killed. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pq.h"

char *pq_helper;

enum { MAX_ANSWER = 1 << 20, MAX_ARGUMENTS = 16 };

extern char **environ;

static pthread_mutex_t line = PTHREAD_MUTEX_INITIALIZER; /* guards what follows: one request at a time */
static int fd = -1;
static pid_t child;

static bool start(void) {
  char *words = strdup(pq_helper), *argv[MAX_ARGUMENTS + 1], *save = NULL;
  int ends[2], n = 0;
  if (words == NULL) return false;
  for (char *w = strtok_r(words, " ", &save); w != NULL && n < MAX_ARGUMENTS; w = strtok_r(NULL, " ", &save)) argv[n++] = w;
  argv[n] = NULL;
  if (n == 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    free(words);
    return false;
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  /* Go blocks and catches signals as it likes; the child gets none of that. */
  posix_spawnattr_t attr;
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_init(&attr);
  posix_spawnattr_setsigmask(&attr, &none);
  posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
  int failed = posix_spawn(&child, argv[0], &actions, &attr, argv, environ);
  posix_spawnattr_destroy(&attr);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (failed != 0) {
    fprintf(stderr, "faultmodule: starting %s: %s\n", argv[0], strerror(failed));
    close(ends[0]);
  } else
    fd = ends[0];
  free(words);
  return failed == 0;
}

static void stop(void) {
  if (fd < 0) return;
  close(fd);
  fd = -1;
  while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
}

void pq_stop(void) {
  pthread_mutex_lock(&line);
  stop();
  pthread_mutex_unlock(&line);
}

static bool give(const void *data, size_t n) {
  for (const char *p = data; n > 0;) {
    ssize_t done = send(fd, p, n, MSG_NOSIGNAL);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    p += done;
    n -= (size_t)done;
  }
  return true;
}

static bool take(void *data, size_t n) {
  for (char *p = data; n > 0;) {
    ssize_t done = recv(fd, p, n, 0);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    p += done;
    n -= (size_t)done;
  }
  return true;
}

static void big_endian(CK_BYTE *to, uint32_t n) {
  for (int i = 0; i < 4; i++) to[i] = (CK_BYTE)(n >> (24 - 8 * i));
}

static CK_BYTE *encode(const struct pq_request *q, size_t *len) {
  *len = 4 + 5 + 1 + q->context_len + 1 + q->seed_len + q->data_len;
  CK_BYTE *b = malloc(*len), *p = b;
  if (b == NULL) return NULL;
  big_endian(p, (uint32_t)(*len - 4));
  p += 4;
  *p++ = q->what;
  *p++ = q->key_type;
  *p++ = q->set;
  *p++ = q->flags;
  *p++ = q->hash;
  *p++ = (CK_BYTE)q->context_len;
  if (q->context_len > 0) memcpy(p, q->context, q->context_len);
  p += q->context_len;
  *p++ = (CK_BYTE)q->seed_len;
  if (q->seed_len > 0) memcpy(p, q->seed, q->seed_len);
  p += q->seed_len;
  if (q->data_len > 0) memcpy(p, q->data, q->data_len);
  return b;
}

/* Takes the answer without its status. */
static CK_RV receive(CK_BYTE **answer, CK_ULONG *len) {
  CK_BYTE head[5];
  if (!take(head, sizeof head)) return CKR_DEVICE_ERROR;
  uint32_t n = (uint32_t)head[0] << 24 | (uint32_t)head[1] << 16 | (uint32_t)head[2] << 8 | head[3];
  if (n == 0 || n > MAX_ANSWER) return CKR_DEVICE_ERROR;
  *len = n - 1;
  *answer = malloc(n);
  if (*answer == NULL) return CKR_HOST_MEMORY;
  if (!take(*answer, n - 1)) {
    free(*answer);
    *answer = NULL;
    return CKR_DEVICE_ERROR;
  }
  if (head[4] == 0) return CKR_OK;
  free(*answer);
  *answer = NULL;
  return head[4] == 1 ? CKR_ATTRIBUTE_VALUE_INVALID : CKR_ARGUMENTS_BAD;
}

CK_RV pq_ask(const struct pq_request *q, CK_BYTE **answer, CK_ULONG *len) {
  *answer = NULL;
  if (q->context_len > 255 || q->seed_len > 255 || q->data_len > 1 << 23) return CKR_DATA_LEN_RANGE;
  size_t n;
  CK_BYTE *b = encode(q, &n);
  if (b == NULL) return CKR_HOST_MEMORY;
  pthread_mutex_lock(&line);
  CK_RV rv = CKR_DEVICE_ERROR;
  if (fd >= 0 || start()) {
    rv = give(b, n) ? receive(answer, len) : CKR_DEVICE_ERROR;
    if (rv == CKR_DEVICE_ERROR || rv == CKR_HOST_MEMORY) stop(); /* the next request starts another */
  }
  pthread_mutex_unlock(&line);
  free(b);
  return rv;
}
