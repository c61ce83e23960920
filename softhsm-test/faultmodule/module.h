/* What the parts of the module share. One process has one of each; the control block is everybody's. */
#ifndef MODULE_H
#define MODULE_H

#include <p11-kit/pkcs11.h>

#include "control.h"

/* settings.c: loads the module behind. */
extern struct control *control;
extern CK_FUNCTION_LIST *real; /* NULL until loaded */
extern char *reserved;         /* for CK_C_INITIALIZE_ARGS.pReserved, or NULL */
bool load(void);

/* faults.c: one call on its way. */
struct call {
  enum function fn;
  bool after_rv, after_crash, after_hang;
  CK_RV rv;
  int64_t crash;
  uint32_t gen;
  struct rule length, corrupt;
};

/* Counts the call and does to it what was ordered for before it. False: the call is not to be made, c->rv is its answer. */
bool call_begin(struct call *c, enum function fn);
/* Does what was ordered for afterwards and returns the answer for the caller. buffer and length are the output, or NULL;
 * query says that only a length was asked for. */
CK_RV call_end(struct call *c, CK_RV rv, void *buffer, CK_ULONG *length, bool query);
CK_RV call_end_attributes(struct call *c, CK_RV rv, CK_ATTRIBUTE *attributes, CK_ULONG count);

/* sessions.c: the caller sees handles of ours, which are never used twice, so that a dropped session stays dead whatever the
 * module behind does with its numbers. Between enter and leave no session is dropped. */
CK_RV sessions_enter(void);
CK_RV session_enter(CK_SESSION_HANDLE handle, CK_SESSION_HANDLE *real_handle);
void sessions_leave(void);
CK_RV session_add(CK_SLOT_ID slot, CK_SESSION_HANDLE real_handle, CK_SESSION_HANDLE *handle);
void session_remove(CK_SESSION_HANDLE handle);
void sessions_remove_slot(CK_SLOT_ID slot);
bool sessions_full(void);
CK_RV module_initialize(void *args);
CK_RV module_finalize(void *args);
struct process *process_here(void);

#endif
