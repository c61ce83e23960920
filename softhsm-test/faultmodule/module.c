/* A PKCS#11 2.40 module that forwards every call to another and, when told, does not. README.md says what it can be told. With a helper it is one of 3.2 (pq.c).
 *
 * Not thread-safe are only C_Initialize and C_Finalize against each other, as in the standard (5.4). */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"
#include "pq.h"

#define EXPORT __attribute__((visibility("default"))) CK_RV

/* A call that is given a session handle. `invocation` uses s, the handle of the module behind. */
#define WITH_SESSION(name, handle, invocation, end)              \
  struct call c;                                                 \
  CK_RV rv = CKR_OK;                                             \
  CK_SESSION_HANDLE s = 0;                                       \
  if (!call_begin(&c, FN_##name))                                \
    rv = c.rv;                                                   \
  else if ((rv = session_enter((handle), &s)) == CKR_OK) {       \
    rv = real->name == NULL ? CKR_FUNCTION_NOT_SUPPORTED : (invocation); \
    sessions_leave();                                            \
  }                                                              \
  return end

/* A call about a slot. */
#define WITH_SLOT(name, when_gone, invocation, end)              \
  struct call c;                                                 \
  CK_RV rv = CKR_OK;                                             \
  if (!call_begin(&c, FN_##name))                                \
    rv = c.rv;                                                   \
  else if ((rv = sessions_enter()) == CKR_OK) {                  \
    int gone = atomic_load(&control->gone);                      \
    rv = gone == TOKEN_EMPTY             ? CKR_SLOT_ID_INVALID   \
         : gone == TOKEN_ABSENT && (when_gone) ? CKR_TOKEN_NOT_PRESENT \
         : real->name == NULL            ? CKR_FUNCTION_NOT_SUPPORTED \
                                         : (invocation);         \
    sessions_leave();                                            \
  }                                                              \
  return end

#define PLAIN call_end(&c, rv, NULL, NULL, false)
#define BYTES(buffer, length) call_end(&c, rv, (buffer), (length), (buffer) == NULL)
#define LENGTH(length) call_end(&c, rv, NULL, (length), false)

/* Whether the mechanism was taken away. */
static bool hidden(CK_MECHANISM_TYPE type) {
  uint32_t n = atomic_load(&control->mechanism_count);
  for (uint32_t i = 0; i < n; i++)
    if (control->mechanisms[i].hidden && control->mechanisms[i].type == type) return true;
  return false;
}

static const struct mechanism *added(CK_MECHANISM_TYPE type) {
  uint32_t n = atomic_load(&control->mechanism_count);
  for (uint32_t i = 0; i < n; i++)
    if (!control->mechanisms[i].hidden && control->mechanisms[i].type == type) return &control->mechanisms[i];
  return NULL;
}

#define UNLESS_HIDDEN(m, invocation) \
  ((m) != NULL && hidden((m)->mechanism) ? CKR_MECHANISM_INVALID : (invocation))

/* What pq.c answers, or the invocation. */
static _Thread_local CK_RV pq_rv;
#define UNLESS_PQ(taken, invocation) ((taken) ? pq_rv : (invocation))

EXPORT C_Initialize(void *args) {
  struct call c;
  load();
  CK_RV rv = call_begin(&c, FN_C_Initialize) ? module_initialize(args) : c.rv;
  return PLAIN;
}

EXPORT C_Finalize(void *args) {
  struct call c;
  CK_RV rv = call_begin(&c, FN_C_Finalize) ? module_finalize(args) : c.rv;
  return PLAIN;
}

EXPORT C_GetInfo(CK_INFO *info) {
  struct call c;
  CK_RV rv = call_begin(&c, FN_C_GetInfo) ? real->C_GetInfo(info) : c.rv;
  return PLAIN;
}

/* The caller's buffer gets what fits the two-call convention (5.2). */
static CK_RV give_list(const CK_ULONG *list, CK_ULONG n, CK_ULONG *out, CK_ULONG *count) {
  CK_ULONG room = *count;
  *count = n;
  if (out == NULL) return CKR_OK;
  if (room < n) return CKR_BUFFER_TOO_SMALL;
  memcpy(out, list, n * sizeof *list);
  return CKR_OK;
}

static CK_RV slot_list(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count) {
  int gone = atomic_load(&control->gone);
  if (gone == TOKEN_EMPTY || (gone == TOKEN_ABSENT && present)) {
    /* Asked all the same: modules take in new tokens when they are asked for the number of slots. */
    CK_ULONG ignored = 0;
    CK_RV rv = real->C_GetSlotList(present, NULL, &ignored);
    if (rv == CKR_OK && count != NULL) *count = 0;
    return rv;
  }
  return real->C_GetSlotList(present, slots, count);
}

EXPORT C_GetSlotList(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *count) {
  struct call c;
  CK_RV rv = CKR_OK;
  if (!call_begin(&c, FN_C_GetSlotList))
    rv = c.rv;
  else if ((rv = sessions_enter()) == CKR_OK) {
    rv = slot_list(present, slots, count);
    sessions_leave();
  }
  return call_end(&c, rv, NULL, count, slots == NULL);
}

EXPORT C_GetSlotInfo(CK_SLOT_ID slot, CK_SLOT_INFO *info) {
  struct call c;
  CK_RV rv = CKR_OK;
  if (!call_begin(&c, FN_C_GetSlotInfo))
    rv = c.rv;
  else if ((rv = sessions_enter()) == CKR_OK) {
    int gone = atomic_load(&control->gone);
    rv = gone == TOKEN_EMPTY ? CKR_SLOT_ID_INVALID : real->C_GetSlotInfo(slot, info);
    if (rv == CKR_OK && gone == TOKEN_ABSENT) info->flags &= ~(CK_FLAGS)CKF_TOKEN_PRESENT;
    sessions_leave();
  }
  return PLAIN;
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO *info) {
  CK_RV rv = real->C_GetTokenInfo(slot, info);
  uint64_t report = atomic_load(&control->session_report);
  if (rv == CKR_OK && report != 0) info->ulMaxSessionCount = info->ulMaxRwSessionCount = (CK_ULONG)report;
  uint64_t limit = atomic_load(&control->pin_limit), wrong = atomic_load(&control->pin_wrong_now);
  if (rv == CKR_OK && limit != 0) {
    if (wrong > 0) info->flags |= CKF_USER_PIN_COUNT_LOW;
    if (wrong + 1 == limit) info->flags |= CKF_USER_PIN_FINAL_TRY;
    if (wrong >= limit) info->flags |= CKF_USER_PIN_LOCKED;
  }
  return rv;
}

EXPORT C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO *info) {
  WITH_SLOT(C_GetTokenInfo, true, token_info(slot, info), PLAIN);
}

static CK_RV mechanism_list(CK_SLOT_ID slot, CK_MECHANISM_TYPE *out, CK_ULONG *count) {
  uint32_t changes = atomic_load(&control->mechanism_count);
  CK_ULONG own = pq_helper != NULL ? PQ_MECHANISMS : 0;
  if (changes + own == 0 || count == NULL) return real->C_GetMechanismList(slot, out, count);
  CK_ULONG n = 0;
  CK_RV rv = real->C_GetMechanismList(slot, NULL, &n);
  if (rv != CKR_OK) return rv;
  CK_MECHANISM_TYPE *list = calloc(n + changes + own, sizeof *list);
  if (list == NULL) return CKR_HOST_MEMORY;
  rv = real->C_GetMechanismList(slot, list, &n);
  for (CK_ULONG i = 0; rv == CKR_OK && i < own; i++) list[n++] = pq_mechanisms[i];
  CK_ULONG kept = 0;
  for (CK_ULONG i = 0; rv == CKR_OK && i < n; i++)
    if (!hidden(list[i]) && added(list[i]) == NULL) list[kept++] = list[i];
  for (uint32_t i = 0; i < changes; i++)
    if (!control->mechanisms[i].hidden) list[kept++] = (CK_MECHANISM_TYPE)control->mechanisms[i].type;
  if (rv == CKR_OK) rv = give_list(list, kept, out, count);
  free(list);
  return rv;
}

EXPORT C_GetMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE *list, CK_ULONG *count) {
  WITH_SLOT(C_GetMechanismList, true, mechanism_list(slot, list, count), call_end(&c, rv, NULL, count, list == NULL));
}

static CK_RV mechanism_info(CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info) {
  if (hidden(type)) return CKR_MECHANISM_INVALID;
  const struct mechanism *m = added(type);
  if (m == NULL && info != NULL && pq_helper != NULL && pq_mechanism_info(type, info)) return CKR_OK;
  if (m == NULL || info == NULL) return real->C_GetMechanismInfo(slot, type, info);
  *info = (CK_MECHANISM_INFO){.ulMinKeySize = m->min, .ulMaxKeySize = m->max, .flags = m->flags};
  return CKR_OK;
}

EXPORT C_GetMechanismInfo(CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info) {
  WITH_SLOT(C_GetMechanismInfo, true, mechanism_info(slot, type, info), PLAIN);
}

EXPORT C_InitToken(CK_SLOT_ID slot, CK_BYTE *pin, CK_ULONG pin_len, CK_BYTE *label) {
  WITH_SLOT(C_InitToken, true, real->C_InitToken(slot, pin, pin_len, label), PLAIN);
}

EXPORT C_WaitForSlotEvent(CK_FLAGS flags, CK_SLOT_ID *slot, void *unused) {
  /* May block without end, so it holds no lock that a drop of the sessions would wait for. */
  struct call c;
  CK_RV rv = call_begin(&c, FN_C_WaitForSlotEvent) ? real->C_WaitForSlotEvent(flags, slot, unused) : c.rv;
  return PLAIN;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *app, CK_NOTIFY notify, CK_SESSION_HANDLE *out) {
  if (out == NULL) return CKR_ARGUMENTS_BAD;
  if (sessions_full()) return CKR_SESSION_COUNT;
  CK_SESSION_HANDLE s = 0;
  CK_RV rv = real->C_OpenSession(slot, flags, app, notify, &s);
  if (rv != CKR_OK) return rv;
  rv = session_add(slot, s, out);
  if (rv != CKR_OK) (void)real->C_CloseSession(s);
  return rv;
}

EXPORT C_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, void *app, CK_NOTIFY notify, CK_SESSION_HANDLE *out) {
  WITH_SLOT(C_OpenSession, true, open_session(slot, flags, app, notify, out), PLAIN);
}

static CK_RV close_session(CK_SESSION_HANDLE s, CK_SESSION_HANDLE handle) {
  CK_RV rv = real->C_CloseSession(s);
  pq_forget(s);
  if (rv == CKR_OK) session_remove(handle);
  return rv;
}

EXPORT C_CloseSession(CK_SESSION_HANDLE h) { WITH_SESSION(C_CloseSession, h, close_session(s, h), PLAIN); }

static CK_RV close_all(CK_SLOT_ID slot) {
  CK_RV rv = real->C_CloseAllSessions(slot);
  if (rv == CKR_OK) sessions_remove_slot(slot);
  return rv;
}

EXPORT C_CloseAllSessions(CK_SLOT_ID slot) { WITH_SLOT(C_CloseAllSessions, true, close_all(slot), PLAIN); }

/* Counts wrong PINs, and locks the user's after as many as `pin-lock` says, as devices do. */
static CK_RV login(CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG pin_len) {
  uint64_t limit = atomic_load(&control->pin_limit);
  CK_RV rv = limit != 0 && user == CKU_USER && atomic_load(&control->pin_wrong_now) >= limit
                 ? CKR_PIN_LOCKED
                 : real->C_Login(s, user, pin, pin_len);
  if (rv == CKR_PIN_INCORRECT || rv == CKR_PIN_LEN_RANGE || rv == CKR_PIN_INVALID || rv == CKR_PIN_LOCKED) {
    atomic_fetch_add(&control->pin_wrong, 1);
    if (user == CKU_USER) atomic_fetch_add(&control->pin_wrong_now, 1);
  } else if (rv == CKR_OK && user == CKU_USER)
    atomic_store(&control->pin_wrong_now, 0);
  return rv;
}

EXPORT C_Login(CK_SESSION_HANDLE h, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG pin_len) {
  WITH_SESSION(C_Login, h, login(s, user, pin, pin_len), PLAIN);
}

EXPORT C_GetAttributeValue(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *list, CK_ULONG count) {
  WITH_SESSION(C_GetAttributeValue, h,
               UNLESS_PQ(pq_attributes(s, object, list, count, &pq_rv), real->C_GetAttributeValue(s, object, list, count)),
               call_end_attributes(&c, rv, list, count));
}

EXPORT C_FindObjects(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE *objects, CK_ULONG max, CK_ULONG *count) {
  WITH_SESSION(C_FindObjects, h, real->C_FindObjects(s, objects, max, count), LENGTH(count));
}

EXPORT C_GenerateRandom(CK_SESSION_HANDLE h, CK_BYTE *out, CK_ULONG length) {
  WITH_SESSION(C_GenerateRandom, h, real->C_GenerateRandom(s, out, length), BYTES(out, &length));
}

EXPORT C_GetObjectSize(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object, CK_ULONG *size) {
  WITH_SESSION(C_GetObjectSize, h, real->C_GetObjectSize(s, object, size), LENGTH(size));
}

EXPORT C_GetOperationState(CK_SESSION_HANDLE h, CK_BYTE *state, CK_ULONG *length) {
  WITH_SESSION(C_GetOperationState, h, real->C_GetOperationState(s, state, length), BYTES(state, length));
}

EXPORT C_WrapKey(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, CK_BYTE *out,
                 CK_ULONG *length) {
  WITH_SESSION(C_WrapKey, h, 
               UNLESS_HIDDEN(m, UNLESS_PQ(pq_wrap(s, m, wrapping, key, out, length, &pq_rv), real->C_WrapKey(s, m, wrapping, key, out, length))), BYTES(out, length));
}

EXPORT C_UnwrapKey(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE unwrapping, CK_BYTE *wrapped, CK_ULONG length,
                   CK_ATTRIBUTE *list, CK_ULONG count, CK_OBJECT_HANDLE *key) {
  WITH_SESSION(C_UnwrapKey, h,
               UNLESS_HIDDEN(m, UNLESS_PQ(pq_unwrap(s, m, unwrapping, wrapped, length, list, count, key, &pq_rv),
                                          real->C_UnwrapKey(s, m, unwrapping, wrapped, length, list, count, key))),
               PLAIN);
}

EXPORT C_DeriveKey(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE base, CK_ATTRIBUTE *list, CK_ULONG count,
                   CK_OBJECT_HANDLE *key) {
  WITH_SESSION(C_DeriveKey, h, UNLESS_HIDDEN(m, real->C_DeriveKey(s, m, base, list, count, key)), PLAIN);
}

EXPORT C_GenerateKey(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_ATTRIBUTE *list, CK_ULONG count, CK_OBJECT_HANDLE *key) {
  WITH_SESSION(C_GenerateKey, h, UNLESS_HIDDEN(m, real->C_GenerateKey(s, m, list, count, key)), PLAIN);
}

EXPORT C_GenerateKeyPair(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_ATTRIBUTE *public_list, CK_ULONG public_count,
                         CK_ATTRIBUTE *private_list, CK_ULONG private_count, CK_OBJECT_HANDLE *public_key,
                         CK_OBJECT_HANDLE *private_key) {
  WITH_SESSION(C_GenerateKeyPair, h,
               UNLESS_HIDDEN(m, UNLESS_PQ(pq_generate(s, m, public_list, public_count, private_list, private_count, public_key,
                                                      private_key, &pq_rv),
                                          real->C_GenerateKeyPair(s, m, public_list, public_count, private_list, private_count,
                                                                  public_key, private_key))),
               PLAIN);
}

/* The rest have one of a few shapes. */
#define INIT_WITH_KEY(name)                                                              \
  EXPORT name(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE key) {              \
    WITH_SESSION(name, h, UNLESS_HIDDEN(m, real->name(s, m, key)), PLAIN);               \
  }
#define BYTES_TO_BYTES(name)                                                             \
  EXPORT name(CK_SESSION_HANDLE h, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len) { \
    WITH_SESSION(name, h, real->name(s, in, in_len, out, out_len), BYTES(out, out_len)); \
  }
#define TO_BYTES(name)                                                                   \
  EXPORT name(CK_SESSION_HANDLE h, CK_BYTE *out, CK_ULONG *out_len) {                    \
    WITH_SESSION(name, h, real->name(s, out, out_len), BYTES(out, out_len));             \
  }
#define FROM_BYTES(name)                                                                 \
  EXPORT name(CK_SESSION_HANDLE h, CK_BYTE *in, CK_ULONG in_len) {                       \
    WITH_SESSION(name, h, real->name(s, in, in_len), PLAIN);                             \
  }
#define SESSION_ONLY(name)                                                               \
  EXPORT name(CK_SESSION_HANDLE h) { WITH_SESSION(name, h, real->name(s), PLAIN); }

INIT_WITH_KEY(C_EncryptInit)
INIT_WITH_KEY(C_DecryptInit)
INIT_WITH_KEY(C_SignRecoverInit)
INIT_WITH_KEY(C_VerifyInit)
INIT_WITH_KEY(C_VerifyRecoverInit)
BYTES_TO_BYTES(C_Encrypt)
BYTES_TO_BYTES(C_EncryptUpdate)
BYTES_TO_BYTES(C_Decrypt)
BYTES_TO_BYTES(C_DecryptUpdate)
BYTES_TO_BYTES(C_Digest)
BYTES_TO_BYTES(C_SignRecover)
BYTES_TO_BYTES(C_VerifyRecover)
BYTES_TO_BYTES(C_DigestEncryptUpdate)
BYTES_TO_BYTES(C_DecryptDigestUpdate)
BYTES_TO_BYTES(C_SignEncryptUpdate)
BYTES_TO_BYTES(C_DecryptVerifyUpdate)
TO_BYTES(C_EncryptFinal)
TO_BYTES(C_DecryptFinal)
TO_BYTES(C_DigestFinal)
TO_BYTES(C_SignFinal)
FROM_BYTES(C_DigestUpdate)
FROM_BYTES(C_SignUpdate)
FROM_BYTES(C_VerifyUpdate)
FROM_BYTES(C_VerifyFinal)
FROM_BYTES(C_SeedRandom)
FROM_BYTES(C_InitPIN)
SESSION_ONLY(C_Logout)
SESSION_ONLY(C_FindObjectsFinal)
SESSION_ONLY(C_GetFunctionStatus)
SESSION_ONLY(C_CancelFunction)

EXPORT C_SetPIN(CK_SESSION_HANDLE h, CK_BYTE *old_pin, CK_ULONG old_len, CK_BYTE *new_pin, CK_ULONG new_len) {
  WITH_SESSION(C_SetPIN, h, real->C_SetPIN(s, old_pin, old_len, new_pin, new_len), PLAIN);
}

EXPORT C_GetSessionInfo(CK_SESSION_HANDLE h, CK_SESSION_INFO *info) {
  WITH_SESSION(C_GetSessionInfo, h, real->C_GetSessionInfo(s, info), PLAIN);
}

EXPORT C_SetOperationState(CK_SESSION_HANDLE h, CK_BYTE *state, CK_ULONG length, CK_OBJECT_HANDLE encryption,
                           CK_OBJECT_HANDLE authentication) {
  WITH_SESSION(C_SetOperationState, h, real->C_SetOperationState(s, state, length, encryption, authentication), PLAIN);
}

EXPORT C_CreateObject(CK_SESSION_HANDLE h, CK_ATTRIBUTE *list, CK_ULONG count, CK_OBJECT_HANDLE *object) {
  WITH_SESSION(C_CreateObject, h, UNLESS_PQ(pq_create(s, list, count, object, &pq_rv), real->C_CreateObject(s, list, count, object)), PLAIN);
}

EXPORT C_SignInit(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE key) {
  WITH_SESSION(C_SignInit, h, UNLESS_HIDDEN(m, UNLESS_PQ(pq_sign_init(s, m, key, &pq_rv), real->C_SignInit(s, m, key))), PLAIN);
}

EXPORT C_Sign(CK_SESSION_HANDLE h, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len) {
  WITH_SESSION(C_Sign, h, UNLESS_PQ(pq_sign(s, in, in_len, out, out_len, &pq_rv), real->C_Sign(s, in, in_len, out, out_len)),
               BYTES(out, out_len));
}

static CK_RV encapsulate(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE key, CK_ATTRIBUTE *list, CK_ULONG count, CK_BYTE *text,
                         CK_ULONG *text_len, CK_OBJECT_HANDLE *secret) {
  struct call c;
  CK_RV rv = CKR_OK;
  CK_SESSION_HANDLE s = 0;
  if (!call_begin(&c, FN_C_EncapsulateKey))
    rv = c.rv;
  else if ((rv = session_enter(h, &s)) == CKR_OK) {
    rv = UNLESS_HIDDEN(m, pq_encapsulate(s, m, key, list, count, text, text_len, secret));
    sessions_leave();
  }
  return BYTES(text, text_len);
}

static CK_RV decapsulate(CK_SESSION_HANDLE h, CK_MECHANISM *m, CK_OBJECT_HANDLE key, CK_ATTRIBUTE *list, CK_ULONG count, CK_BYTE *text,
                         CK_ULONG text_len, CK_OBJECT_HANDLE *secret) {
  struct call c;
  CK_RV rv = CKR_OK;
  CK_SESSION_HANDLE s = 0;
  if (!call_begin(&c, FN_C_DecapsulateKey))
    rv = c.rv;
  else if ((rv = session_enter(h, &s)) == CKR_OK) {
    rv = UNLESS_HIDDEN(m, pq_decapsulate(s, m, key, list, count, text, text_len, secret));
    sessions_leave();
  }
  return PLAIN;
}

EXPORT C_CopyObject(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *list, CK_ULONG count, CK_OBJECT_HANDLE *copy) {
  WITH_SESSION(C_CopyObject, h, real->C_CopyObject(s, object, list, count, copy), PLAIN);
}

EXPORT C_DestroyObject(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object) {
  WITH_SESSION(C_DestroyObject, h, real->C_DestroyObject(s, object), PLAIN);
}

EXPORT C_SetAttributeValue(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *list, CK_ULONG count) {
  WITH_SESSION(C_SetAttributeValue, h, real->C_SetAttributeValue(s, object, list, count), PLAIN);
}

EXPORT C_FindObjectsInit(CK_SESSION_HANDLE h, CK_ATTRIBUTE *list, CK_ULONG count) {
  WITH_SESSION(C_FindObjectsInit, h, real->C_FindObjectsInit(s, list, count), PLAIN);
}

EXPORT C_DigestInit(CK_SESSION_HANDLE h, CK_MECHANISM *m) {
  WITH_SESSION(C_DigestInit, h, UNLESS_HIDDEN(m, real->C_DigestInit(s, m)), PLAIN);
}

EXPORT C_DigestKey(CK_SESSION_HANDLE h, CK_OBJECT_HANDLE key) { WITH_SESSION(C_DigestKey, h, real->C_DigestKey(s, key), PLAIN); }

EXPORT C_Verify(CK_SESSION_HANDLE h, CK_BYTE *data, CK_ULONG data_len, CK_BYTE *signature, CK_ULONG signature_len) {
  WITH_SESSION(C_Verify, h, real->C_Verify(s, data, data_len, signature, signature_len), PLAIN);
}

#define FUNCTION_MEMBER(name) .name = name,
static CK_FUNCTION_LIST list_2_40 = {.version = {2, 40}, FUNCTIONS(FUNCTION_MEMBER)};

EXPORT C_GetFunctionList(CK_FUNCTION_LIST **out) {
  if (out == NULL) return CKR_ARGUMENTS_BAD;
  if (!load()) return CKR_GENERAL_ERROR;
  *out = &list_2_40;
  return CKR_OK;
}

/* CK_INTERFACE and CK_FUNCTION_LIST_3_2 (3.2, sections 3.7 and 5.4.6): version, the functions of 2.40, 24 of 3.0, of which the first two are those about
 * interfaces, and twelve of 3.2, of which the first two are about encapsulation. */
typedef struct {
  const char *name;
  void *list;
  CK_FLAGS flags;
} interface;
CK_RV C_GetInterfaceList(interface *out, CK_ULONG *count);
CK_RV C_GetInterface(const CK_BYTE *name, const CK_VERSION *version, interface **out, CK_FLAGS flags);

enum { COUNT_2_40 = 68, COUNT_3_0 = COUNT_2_40 + 24, COUNT_3_2 = COUNT_3_0 + 12 };

/* Called with more arguments than it looks at. */
static CK_RV unsupported(void) { return CKR_FUNCTION_NOT_SUPPORTED; }

static interface *interface_3_2(void) {
  static struct {
    CK_VERSION version;
    void *f[COUNT_3_2];
  } list = {.version = {3, 2}};
  static interface it = {"PKCS 11", &list, 0};
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&lock);
  if (list.f[0] == NULL) {
    for (int i = COUNT_2_40; i < COUNT_3_2; i++) list.f[i] = (void *)unsupported;
    list.f[COUNT_2_40] = (void *)C_GetInterfaceList;
    list.f[COUNT_2_40 + 1] = (void *)C_GetInterface;
    list.f[COUNT_3_0] = (void *)encapsulate;
    list.f[COUNT_3_0 + 1] = (void *)decapsulate;
    memcpy(list.f, &list_2_40.C_Initialize, COUNT_2_40 * sizeof list.f[0]);
  }
  pthread_mutex_unlock(&lock);
  return &it;
}

EXPORT C_GetInterfaceList(interface *out, CK_ULONG *count) {
  if (count == NULL) return CKR_ARGUMENTS_BAD;
  if (!load()) return CKR_GENERAL_ERROR;
  if (pq_helper == NULL) return CKR_FUNCTION_NOT_SUPPORTED;
  CK_ULONG room = *count;
  *count = 1;
  if (out == NULL) return CKR_OK;
  if (room < 1) return CKR_BUFFER_TOO_SMALL;
  *out = *interface_3_2();
  return CKR_OK;
}

EXPORT C_GetInterface(const CK_BYTE *name, const CK_VERSION *version, interface **out, CK_FLAGS flags) {
  if (out == NULL) return CKR_ARGUMENTS_BAD;
  if (!load()) return CKR_GENERAL_ERROR;
  if (pq_helper == NULL) return CKR_FUNCTION_NOT_SUPPORTED;
  if ((name != NULL && strcmp((const char *)name, "PKCS 11") != 0) || (version != NULL && (version->major != 3 || version->minor != 2)) || flags != 0)
    return CKR_FUNCTION_FAILED;
  *out = interface_3_2();
  return CKR_OK;
}
