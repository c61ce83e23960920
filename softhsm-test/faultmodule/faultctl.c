/* faultctl CONTROL [COMMAND...]: gives commands to every process that has the fault module loaded with that control file.
 * Each argument is a whole command; without any, lines are read from the standard input, each answered before the next is
 * read. Exit status 1 if a command was refused. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control.h"

static int run(struct control *c, const char *line) {
  char *text = NULL;
  size_t size = 0;
  FILE *memory = open_memstream(&text, &size);
  if (memory == NULL) return 1;
  command(c, line, memory);
  fclose(memory);
  int refused = strncmp(text, "error", 5) == 0;
  fputs(text, stdout);
  fflush(stdout);
  free(text);
  return refused;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: faultctl CONTROL [COMMAND...]\n");
    return 2;
  }
  bool made;
  struct control *c = control_open(argv[1], &made);
  if (c == NULL) {
    fprintf(stderr, "faultctl: %s: %s\n", argv[1], strerror(errno));
    return 2;
  }
  int status = 0;
  for (int i = 2; i < argc; i++) status |= run(c, argv[i]);
  if (argc > 2) return status;
  char *line = NULL;
  size_t size = 0;
  while (getline(&line, &size, stdin) >= 0) status |= run(c, line);
  free(line);
  return status;
}
