/* The line protocol. README.md is its description; what is not understood is refused and changes nothing. */
#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <p11-kit/pkcs11.h>

#include "control.h"

enum { MAX_WORDS = 16 };

struct words {
  int count;
  char *word[MAX_WORDS];
};

static const struct {
  const char *name;
  unsigned long rv;
} rv_names[] = {
#define RV(name) {#name, name}
    RV(CKR_OK), RV(CKR_CANCEL), RV(CKR_HOST_MEMORY), RV(CKR_SLOT_ID_INVALID), RV(CKR_GENERAL_ERROR),
    RV(CKR_FUNCTION_FAILED), RV(CKR_ARGUMENTS_BAD), RV(CKR_CANT_LOCK), RV(CKR_ATTRIBUTE_READ_ONLY),
    RV(CKR_ATTRIBUTE_SENSITIVE), RV(CKR_ATTRIBUTE_TYPE_INVALID), RV(CKR_ATTRIBUTE_VALUE_INVALID), RV(CKR_DATA_INVALID),
    RV(CKR_DATA_LEN_RANGE), RV(CKR_DEVICE_ERROR), RV(CKR_DEVICE_MEMORY), RV(CKR_DEVICE_REMOVED),
    RV(CKR_ENCRYPTED_DATA_INVALID), RV(CKR_ENCRYPTED_DATA_LEN_RANGE), RV(CKR_FUNCTION_CANCELED),
    RV(CKR_FUNCTION_NOT_SUPPORTED), RV(CKR_KEY_HANDLE_INVALID), RV(CKR_KEY_SIZE_RANGE), RV(CKR_KEY_TYPE_INCONSISTENT),
    RV(CKR_KEY_FUNCTION_NOT_PERMITTED), RV(CKR_KEY_NOT_WRAPPABLE), RV(CKR_KEY_UNEXTRACTABLE), RV(CKR_MECHANISM_INVALID),
    RV(CKR_MECHANISM_PARAM_INVALID), RV(CKR_OBJECT_HANDLE_INVALID), RV(CKR_OPERATION_ACTIVE),
    RV(CKR_OPERATION_NOT_INITIALIZED), RV(CKR_PIN_INCORRECT), RV(CKR_PIN_INVALID), RV(CKR_PIN_LEN_RANGE),
    RV(CKR_PIN_EXPIRED), RV(CKR_PIN_LOCKED), RV(CKR_SESSION_CLOSED), RV(CKR_SESSION_COUNT), RV(CKR_SESSION_HANDLE_INVALID),
    RV(CKR_SESSION_READ_ONLY), RV(CKR_SIGNATURE_INVALID), RV(CKR_SIGNATURE_LEN_RANGE), RV(CKR_TEMPLATE_INCOMPLETE),
    RV(CKR_TEMPLATE_INCONSISTENT), RV(CKR_TOKEN_NOT_PRESENT), RV(CKR_TOKEN_NOT_RECOGNIZED), RV(CKR_TOKEN_WRITE_PROTECTED),
    RV(CKR_USER_ALREADY_LOGGED_IN), RV(CKR_USER_NOT_LOGGED_IN), RV(CKR_USER_PIN_NOT_INITIALIZED),
    RV(CKR_WRAPPED_KEY_INVALID), RV(CKR_WRAPPED_KEY_LEN_RANGE), RV(CKR_CURVE_NOT_SUPPORTED), RV(CKR_BUFFER_TOO_SMALL),
    RV(CKR_CRYPTOKI_NOT_INITIALIZED), RV(CKR_CRYPTOKI_ALREADY_INITIALIZED), RV(CKR_FUNCTION_REJECTED)};

static bool number(const char *text, uint64_t *out) {
  if (*text == '\0' || *text == '-' || *text == '+') return false;
  char *end;
  errno = 0;
  *out = strtoull(text, &end, 0);
  return errno == 0 && *end == '\0';
}

static bool parse_rv(const char *text, uint64_t *out) {
  for (size_t i = 0; i < sizeof rv_names / sizeof *rv_names; i++)
    if (strcmp(text, rv_names[i].name) == 0) {
      *out = rv_names[i].rv;
      return true;
    }
  return number(text, out);
}

static bool parse_duration(const char *text, int64_t *nanoseconds) {
  char *end;
  errno = 0;
  double value = strtod(text, &end);
  double unit = strcmp(end, "s") == 0    ? 1e9
                : strcmp(end, "ms") == 0 ? 1e6
                : strcmp(end, "us") == 0 ? 1e3
                : strcmp(end, "ns") == 0 ? 1
                                         : 0;
  if (errno != 0 || end == text || unit == 0 || !(value >= 0) || value * unit > 3600e9) return false;
  *nanoseconds = (int64_t)(value * unit);
  return true;
}

/* key=value of the line, or NULL. */
static const char *option(const struct words *w, int from, const char *key) {
  size_t length = strlen(key);
  for (int i = from; i < w->count; i++)
    if (strncmp(w->word[i], key, length) == 0 && w->word[i][length] == '=') return w->word[i] + length + 1;
  return NULL;
}

/* Whether each word from `from` on is one of the keys (each "key=", or a bare word), so that a slip is not taken for a wish. */
static bool only(const struct words *w, int from, const char *const *keys) {
  for (int i = from; i < w->count; i++) {
    bool known = false;
    for (const char *const *key = keys; *key != NULL; key++) {
      size_t length = strlen(*key);
      known |= (*key)[length - 1] == '=' ? strncmp(w->word[i], *key, length) == 0 : strcmp(w->word[i], *key) == 0;
    }
    if (!known) return false;
  }
  return true;
}

#define SELECTION "times=", "every=", "skip=", "p=", "seed=", "at="

static bool parse_selection(const struct words *w, int from, struct rule *r) {
  const char *text;
  if ((text = option(w, from, "times")) != NULL && (!number(text, &r->times) || r->times == 0)) return false;
  if ((text = option(w, from, "every")) != NULL && !number(text, &r->every)) return false;
  if ((text = option(w, from, "skip")) != NULL && !number(text, &r->skip)) return false;
  if ((text = option(w, from, "seed")) != NULL && !number(text, &r->seed)) return false;
  if ((text = option(w, from, "p")) != NULL) {
    char *end;
    r->p = strtod(text, &end);
    if (end == text || *end != '\0' || !(r->p > 0 && r->p <= 1)) return false;
  }
  if ((text = option(w, from, "at")) != NULL) {
    if (strcmp(text, "after") == 0)
      r->after = true;
    else if (strcmp(text, "before") != 0)
      return false;
  }
  return true;
}

/* The functions that a comma-separated list of names and shell patterns means. A pattern leaves the three out whose failure
 * keeps the module from being loaded at all; they have to be named. */
static bool select_functions(const char *list, bool chosen[FN_COUNT]) {
  char *copy = strdup(list), *rest = copy, *pattern;
  bool all_known = copy != NULL;
  while (all_known && (pattern = strsep(&rest, ",")) != NULL) {
    bool known = false;
    for (int fn = 0; fn < FN_COUNT; fn++) {
      bool named = strcmp(pattern, function_names[fn]) == 0;
      bool reserved = fn == FN_C_Initialize || fn == FN_C_Finalize || fn == FN_C_GetFunctionList;
      if (named || (!reserved && fnmatch(pattern, function_names[fn], 0) == 0)) chosen[fn] = known = true;
    }
    all_known = known;
  }
  free(copy);
  return all_known;
}

static void set_rule(struct control *c, const bool chosen[FN_COUNT], enum kind kind, const struct rule *r) {
  control_lock(c);
  for (int fn = 0; fn < FN_COUNT; fn++) {
    if (!chosen[fn]) continue;
    c->functions[fn].rules[kind] = *r;
    if (r->armed)
      atomic_fetch_or(&c->functions[fn].armed, 1u << kind);
    else
      atomic_fetch_and(&c->functions[fn].armed, ~(1u << kind));
  }
  control_unlock(c);
}

static void release(struct control *c) {
  bool every[FN_COUNT];
  for (int fn = 0; fn < FN_COUNT; fn++) every[fn] = true;
  struct rule none = {0};
  set_rule(c, every, KIND_HANG, &none);
  atomic_fetch_add(&c->release, 1);
  syscall(SYS_futex, &c->release, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* set, delay, hang, crash, length, corrupt: VERB FUNCTIONS [how] [which calls]. */
static const char *fault(struct control *c, const struct words *w) {
  static const char *const keys_set[] = {"rv=", SELECTION, NULL};
  static const char *const keys_delay[] = {"queue", SELECTION, NULL};
  static const char *const keys_hang[] = {SELECTION, NULL};
  static const char *const keys_crash[] = {"how=", SELECTION, NULL};
  static const char *const keys_length[] = {"on=", SELECTION, NULL};
  static const char *const keys_corrupt[] = {"xor=", "fill=", SELECTION, NULL};
  const char *verb = w->word[0];
  struct rule r = {.armed = true};
  enum kind kind;
  int from = 2;
  uint64_t value;
  const char *text;

  bool chosen[FN_COUNT] = {false};
  if (w->count < 2 || !select_functions(w->word[1], chosen)) return "no such function";
  if (chosen[FN_C_GetFunctionList]) return "C_GetFunctionList cannot fail";
  const char *const *keys;
  if (strcmp(verb, "set") == 0) {
    kind = KIND_RV, keys = keys_set;
    if ((text = option(w, from, "rv")) == NULL || !parse_rv(text, &value)) return "rv= takes a CKR_ name or a number";
    r.value = (int64_t)value;
  } else if (strcmp(verb, "delay") == 0) {
    kind = KIND_DELAY, keys = keys_delay;
    if (w->count < 3 || !parse_duration(w->word[2], &r.value)) return "a delay is a number with ns, us, ms or s, at most an hour";
    from = 3;
    for (int i = from; i < w->count; i++) r.mode |= strcmp(w->word[i], "queue") == 0;
  } else if (strcmp(verb, "hang") == 0) {
    kind = KIND_HANG, keys = keys_hang;
  } else if (strcmp(verb, "crash") == 0) {
    kind = KIND_CRASH, keys = keys_crash;
    static const char *const ways[] = {"segv", "abort", "exit", "kill"};
    text = option(w, from, "how");
    r.value = text == NULL ? CRASH_SEGV : -1;
    for (int i = 0; text != NULL && i < 4; i++)
      if (strcmp(text, ways[i]) == 0) r.value = i;
    if (r.value < 0) return "how= takes segv, abort, exit or kill";
  } else if (strcmp(verb, "length") == 0) {
    kind = KIND_LENGTH, keys = keys_length;
    if (w->count < 3 || strchr("+-=", w->word[2][0]) == NULL || !number(w->word[2] + 1, &value)) return "a length is +N, -N or =N";
    r.mode = w->word[2][0] == '=' ? LENGTH_SET : LENGTH_ADD;
    r.value = w->word[2][0] == '-' ? -(int64_t)value : (int64_t)value;
    from = 3;
    text = option(w, from, "on");
    r.on = text == NULL || strcmp(text, "data") == 0 ? ON_DATA
           : strcmp(text, "query") == 0              ? ON_QUERY
           : strcmp(text, "both") == 0               ? ON_DATA | ON_QUERY
                                                     : 0;
    if (r.on == 0) return "on= takes data, query or both";
  } else {
    kind = KIND_CORRUPT, keys = keys_corrupt;
    const char *fill = option(w, from, "fill");
    text = fill != NULL ? fill : option(w, from, "xor");
    value = 1;
    if (text != NULL && (!number(text, &value) || value > 255)) return "xor= and fill= take a byte";
    r.mode = fill != NULL ? CORRUPT_FILL : CORRUPT_XOR;
    r.value = (int64_t)value;
  }
  if (!only(w, from, keys)) return "an option that this command does not have";
  if (!parse_selection(w, from, &r)) return "times=, every=, skip=, seed= take numbers, p= a share above 0, at= before or after";
  set_rule(c, chosen, kind, &r);
  return NULL;
}

static const char *clear(struct control *c, const struct words *w) {
  bool chosen[FN_COUNT] = {false};
  if (w->count > 1) {
    if (!select_functions(w->word[1], chosen)) return "no such function";
  } else {
    for (int fn = 0; fn < FN_COUNT; fn++) chosen[fn] = true;
    release(c);
    atomic_store(&c->gone, TOKEN_THERE);
    atomic_store(&c->wedge_rv, 0);
    atomic_store(&c->session_max, 0);
    atomic_store(&c->session_report, 0);
    atomic_store(&c->pin_limit, 0);
    atomic_store(&c->pin_wrong_now, 0);
    atomic_store(&c->mechanism_count, 0);
  }
  struct rule none = {0};
  for (int kind = 0; kind < KIND_COUNT; kind++) set_rule(c, chosen, (enum kind)kind, &none);
  return NULL;
}

static void reset_counts(struct control *c) {
  for (int fn = 0; fn < FN_COUNT; fn++) {
    atomic_store(&c->functions[fn].calls, 0);
    atomic_store(&c->functions[fn].failed, 0);
    atomic_store(&c->functions[fn].fired, 0);
  }
  atomic_store(&c->pin_wrong, 0);
}

static const char *token(struct control *c, const struct words *w) {
  static const char *const keys[] = {"as=", "rv=", NULL};
  if (w->count == 2 && strcmp(w->word[1], "back") == 0) {
    atomic_store(&c->gone, TOKEN_THERE);
    return NULL;
  }
  if (w->count < 2 || strcmp(w->word[1], "gone") != 0 || !only(w, 2, keys)) return "token gone [as=absent|empty] [rv=CKR], or token back";
  const char *as = option(w, 2, "as"), *rv = option(w, 2, "rv");
  uint64_t value = CKR_DEVICE_REMOVED;
  if (rv != NULL && (!parse_rv(rv, &value) || value == CKR_OK)) return "rv= takes a CKR_ name or a number, not 0";
  int gone = as == NULL || strcmp(as, "absent") == 0 ? TOKEN_ABSENT : strcmp(as, "empty") == 0 ? TOKEN_EMPTY : TOKEN_THERE;
  if (gone == TOKEN_THERE) return "as= takes absent or empty";
  atomic_store(&c->gone_rv, value);
  atomic_fetch_add(&c->drop_epoch, 1); /* a token that goes takes its sessions along (5.6.1) */
  atomic_store(&c->gone, gone);
  return NULL;
}

static const char *mechanism(struct control *c, const struct words *w) {
  static const char *const keys[] = {"min=", "max=", "flags=", NULL};
  struct mechanism m = {0};
  if (w->count == 2 && strcmp(w->word[1], "reset") == 0) {
    atomic_store(&c->mechanism_count, 0);
    return NULL;
  }
  bool add = w->count > 2 && strcmp(w->word[1], "add") == 0;
  m.hidden = w->count == 3 && strcmp(w->word[1], "hide") == 0;
  if (!(add || m.hidden) || !number(w->word[2], &m.type) || !only(w, 3, keys))
    return "mechanism add TYPE [min=N max=N flags=N], mechanism hide TYPE, or mechanism reset";
  const char *text;
  if ((text = option(w, 3, "min")) != NULL && !number(text, &m.min)) return "min= takes a number";
  if ((text = option(w, 3, "max")) != NULL && !number(text, &m.max)) return "max= takes a number";
  if ((text = option(w, 3, "flags")) != NULL && !number(text, &m.flags)) return "flags= takes a number";
  control_lock(c);
  uint32_t n = atomic_load(&c->mechanism_count);
  if (n < MAX_MECHANISMS) {
    c->mechanisms[n] = m;
    atomic_store(&c->mechanism_count, n + 1);
  }
  control_unlock(c);
  return n < MAX_MECHANISMS ? NULL : "no room for another mechanism";
}

static const char *sessions(struct control *c, const struct words *w) {
  static const char *const keys[] = {"max=", "report=", NULL};
  uint64_t max = 0, report = 0;
  const char *text;
  if (w->count < 2 || !only(w, 1, keys)) return "sessions max=N [report=N|-1]";
  if ((text = option(w, 1, "max")) != NULL && !number(text, &max)) return "max= takes a number, 0 is no limit";
  if ((text = option(w, 1, "report")) != NULL) {
    if (strcmp(text, "-1") == 0)
      report = UINT64_MAX;
    else if (!number(text, &report))
      return "report= takes a number or -1";
  }
  atomic_store(&c->session_max, max);
  atomic_store(&c->session_report, report != 0 ? report : max);
  return NULL;
}

/* count, failed, fired FUNCTIONS: the sum. */
static const char *count(struct control *c, const struct words *w, FILE *reply) {
  bool chosen[FN_COUNT] = {false};
  if (w->count != 2 || !select_functions(w->word[1], chosen)) return "no such function";
  uint64_t sum = 0;
  for (int fn = 0; fn < FN_COUNT; fn++) {
    struct function_state *f = &c->functions[fn];
    if (!chosen[fn]) continue;
    sum += atomic_load(w->word[0][0] == 'c' ? &f->calls : w->word[0][1] == 'a' ? &f->failed : &f->fired);
  }
  fprintf(reply, "ok %llu\n", (unsigned long long)sum);
  return NULL;
}

static void counts(struct control *c, FILE *reply) {
  for (int fn = 0; fn < FN_COUNT; fn++) {
    struct function_state *f = &c->functions[fn];
    uint64_t calls = atomic_load(&f->calls), failed = atomic_load(&f->failed), fired = atomic_load(&f->fired);
    if (calls != 0)
      fprintf(reply, "%s calls=%llu failed=%llu fired=%llu\n", function_names[fn], (unsigned long long)calls,
              (unsigned long long)failed, (unsigned long long)fired);
  }
  fprintf(reply, "ok\n");
}

static void processes(struct control *c, FILE *reply) {
  int n = 0;
  for (int i = 0; i < MAX_PROCESSES; i++) {
    struct process *p = &c->processes[i];
    pid_t pid = atomic_load(&p->pid);
    if (!process_alive(pid)) continue;
    fprintf(reply, "%d sessions=%lld peak=%lld hanging=%d\n", (int)pid, (long long)atomic_load(&p->sessions),
            (long long)atomic_load(&p->peak), (int)atomic_load(&p->hanging));
    n++;
  }
  fprintf(reply, "ok %d\n", n);
}

static int hanging(struct control *c) {
  int n = 0;
  for (int i = 0; i < MAX_PROCESSES; i++)
    if (process_alive(atomic_load(&c->processes[i].pid))) n += atomic_load(&c->processes[i].hanging);
  return n;
}

static bool split(char *line, struct words *w) {
  char *save = NULL;
  for (char *word = strtok_r(line, " \t\r\n", &save); word != NULL; word = strtok_r(NULL, " \t\r\n", &save)) {
    if (w->count == MAX_WORDS) return false;
    w->word[w->count++] = word;
  }
  return true;
}

static const char *dispatch(struct control *c, const struct words *w, FILE *reply, bool *answered) {
  static const char *const faults[] = {"set", "delay", "hang", "crash", "length", "corrupt"};
  const char *verb = w->word[0];
  uint64_t value;
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
    if (strcmp(verb, faults[i]) == 0) return fault(c, w);
  if (strcmp(verb, "clear") == 0) return clear(c, w);
  if (strcmp(verb, "token") == 0) return token(c, w);
  if (strcmp(verb, "mechanism") == 0) return mechanism(c, w);
  if (strcmp(verb, "sessions") == 0) return sessions(c, w);
  if (strcmp(verb, "wedge") == 0) {
    static const char *const keys[] = {"rv=", NULL};
    const char *text = option(w, 1, "rv");
    value = CKR_DEVICE_ERROR;
    if (!only(w, 1, keys) || (text != NULL && (!parse_rv(text, &value) || value == CKR_OK))) return "wedge [rv=CKR]";
    atomic_store(&c->wedge_rv, value);
    atomic_fetch_add(&c->wedge_epoch, 1);
    return NULL;
  }
  if (strcmp(verb, "pin-lock") == 0) {
    if (w->count != 2 || !number(w->word[1], &value)) return "pin-lock N, 0 is never";
    atomic_store(&c->pin_wrong_now, 0);
    atomic_store(&c->pin_limit, value);
    return NULL;
  }
  *answered = true;
  if (strcmp(verb, "count") == 0 || strcmp(verb, "failed") == 0 || strcmp(verb, "fired") == 0) return count(c, w, reply);
  if (w->count > 1) return "no such command, or too many words";
  if (strcmp(verb, "counts") == 0)
    counts(c, reply);
  else if (strcmp(verb, "processes") == 0)
    processes(c, reply);
  else if (strcmp(verb, "hanging") == 0)
    fprintf(reply, "ok %d\n", hanging(c));
  else if (strcmp(verb, "wrong-pins") == 0)
    fprintf(reply, "ok %llu\n", (unsigned long long)atomic_load(&c->pin_wrong));
  else {
    *answered = false;
    if (strcmp(verb, "release") == 0)
      release(c);
    else if (strcmp(verb, "drop-sessions") == 0)
      atomic_fetch_add(&c->drop_epoch, 1);
    else if (strcmp(verb, "reset-counts") == 0)
      reset_counts(c);
    else
      return "no such command";
  }
  return NULL;
}

void command(struct control *c, const char *line, FILE *reply) {
  char *copy = strdup(line);
  struct words w = {0};
  bool answered = false;
  const char *problem = copy == NULL ? "no memory" : split(copy, &w) ? NULL : "too many words";
  if (problem == NULL && (w.count == 0 || w.word[0][0] == '#'))
    answered = fprintf(reply, "ok\n") > 0;
  else if (problem == NULL)
    problem = dispatch(c, &w, reply, &answered);
  if (problem != NULL)
    fprintf(reply, "error %s\n", problem);
  else if (!answered)
    fprintf(reply, "ok\n");
  free(copy);
}
