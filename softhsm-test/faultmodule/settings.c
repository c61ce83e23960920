/* Where the module's settings come from: the file beside it, <module path>.conf, else the environment. The file lets copies
 * of the module in one process be different devices. */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"
#include "pq.h"

struct control *control;
CK_FUNCTION_LIST *real;
char *reserved;

struct settings {
  char *module, *control, *init; /* init: commands, a semicolon or newline between them */
};

static void complain(const char *what, const char *name, const char *why) {
  fprintf(stderr, "faultmodule: %s: %s: %s\n", what, name, why);
}

static void replace(char **where, const char *value) {
  free(*where);
  *where = *value != '\0' ? strdup(value) : NULL;
}

static bool read_line(struct settings *s, char *line) {
  line[strcspn(line, "\r\n")] = '\0';
  if (line[0] == '\0' || line[0] == '#') return true;
  char *value = strchr(line, '=');
  if (value == NULL) return false;
  *value++ = '\0';
  if (strcmp(line, "module") == 0)
    replace(&s->module, value);
  else if (strcmp(line, "control") == 0)
    replace(&s->control, value);
  else if (strcmp(line, "init") == 0)
    replace(&s->init, value);
  else if (strcmp(line, "reserved") == 0)
    replace(&reserved, value);
  else if (strcmp(line, "pq") == 0)
    replace(&pq_helper, value);
  else if (strcmp(line, "env") == 0) { /* for the module behind: env=SOFTHSM2_CONF=/path */
    char *inner = strchr(value, '=');
    if (inner == NULL) return false;
    *inner++ = '\0';
    return setenv(value, inner, 1) == 0;
  } else
    return false;
  return true;
}

static bool read_file(struct settings *s) {
  Dl_info here;
  /* The address of a variable: that of a function could be another module's, by interposition. */
  if (dladdr(&control, &here) == 0 || here.dli_fname == NULL) return true;
  char *path = NULL;
  if (asprintf(&path, "%s.conf", here.dli_fname) < 0) return false;
  FILE *f = fopen(path, "re");
  bool good = f != NULL || errno == ENOENT;
  if (!good) complain("cannot read", path, strerror(errno));
  char *line = NULL;
  size_t size = 0;
  while (good && f != NULL && getline(&line, &size, f) >= 0) {
    good = read_line(s, line);
    if (!good) complain("a line is not understood", path, line);
  }
  free(line);
  if (f != NULL) fclose(f);
  free(path);
  return good;
}

static bool run_init(char *init) {
  for (char *save = NULL, *line = strtok_r(init, ";\n", &save); line != NULL; line = strtok_r(NULL, ";\n", &save)) {
    char *text = NULL;
    size_t size = 0;
    FILE *reply = open_memstream(&text, &size);
    if (reply == NULL) return false;
    command(control, line, reply);
    fclose(reply);
    bool good = strncmp(text, "error", 5) != 0;
    if (!good) complain("an init command was refused", line, text);
    free(text);
    if (!good) return false;
  }
  return true;
}

static void load_once(void) {
  struct settings s = {0};
  const char *value;
  if ((value = getenv("KEYWRIGHT_FAULT_MODULE")) != NULL) replace(&s.module, value);
  if ((value = getenv("KEYWRIGHT_FAULT_CONTROL")) != NULL) replace(&s.control, value);
  if ((value = getenv("KEYWRIGHT_FAULT_INIT")) != NULL) replace(&s.init, value);
  if ((value = getenv("KEYWRIGHT_FAULT_RESERVED")) != NULL) replace(&reserved, value);
  if ((value = getenv("KEYWRIGHT_FAULT_PQ")) != NULL) replace(&pq_helper, value);
  bool made = false;
  if (!read_file(&s)) goto out;
  if (s.module == NULL) {
    complain("no module behind", "KEYWRIGHT_FAULT_MODULE", "not set");
    goto out;
  }
  control = control_open(s.control, &made);
  if (control == NULL) {
    complain("no control block", s.control != NULL ? s.control : "(private)", strerror(errno));
    goto out;
  }
  if (made && s.init != NULL && !run_init(s.init)) goto out;
  void *library = dlopen(s.module, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    complain("cannot load", s.module, dlerror());
    goto out;
  }
  CK_RV (*get)(CK_FUNCTION_LIST **) = NULL;
  *(void **)&get = dlsym(library, "C_GetFunctionList");
  CK_FUNCTION_LIST *list = NULL;
  if (get == NULL || get(&list) != CKR_OK || list == NULL)
    complain("not a PKCS#11 module", s.module, "it gives no function list");
  else
    real = list;
out:
  free(s.module);
  free(s.control);
  free(s.init);
}

bool load(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, load_once);
  return real != NULL;
}
