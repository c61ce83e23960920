/* The post-quantum side of the token: PKCS#11 3.2 in front of a module of 2.40. See pq.c. */
#ifndef PQ_H
#define PQ_H

#include <p11-kit/pkcs11.h>
#include <stdbool.h>

/* The helper and its arguments, blanks between them; NULL: no such side. Set by settings.c. */
extern char *pq_helper;

/* The mechanisms on top of the list. */
enum { PQ_MECHANISMS = 7 };
extern const CK_MECHANISM_TYPE pq_mechanisms[PQ_MECHANISMS];
bool pq_mechanism_info(CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info);

/* Each takes the module behind's session and object, and stands before the function of its name: true, and *rv is the answer; false, and the
 * module behind is to be asked. */
bool pq_generate(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *public_list, CK_ULONG public_count, CK_ATTRIBUTE *private_list,
                 CK_ULONG private_count, CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key, CK_RV *rv);
bool pq_create(CK_SESSION_HANDLE s, CK_ATTRIBUTE *list, CK_ULONG count, CK_OBJECT_HANDLE *object, CK_RV *rv);
bool pq_attributes(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *list, CK_ULONG count, CK_RV *rv);
bool pq_sign_init(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key, CK_RV *rv);
bool pq_sign(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len, CK_RV *rv);
bool pq_wrap(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *length, CK_RV *rv);
bool pq_unwrap(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE unwrapping, CK_BYTE *wrapped, CK_ULONG length, CK_ATTRIBUTE *list,
               CK_ULONG count, CK_OBJECT_HANDLE *key, CK_RV *rv);

CK_RV pq_decapsulate(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key, CK_ATTRIBUTE *list, CK_ULONG count, CK_BYTE *text,
                     CK_ULONG text_len, CK_OBJECT_HANDLE *secret);
CK_RV pq_encapsulate(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key, CK_ATTRIBUTE *list, CK_ULONG count, CK_BYTE *text,
                     CK_ULONG *text_len, CK_OBJECT_HANDLE *secret);

/* Forgets what was begun in a session, or in all; the latter ends the helper too. */
void pq_forget(CK_SESSION_HANDLE s);
void pq_end(void);

/* helper.c: one request, one answer, which the caller frees. NULL: the helper is not there, or broke down. */
struct pq_request {
  CK_BYTE what, key_type, set, flags, hash;
  const CK_BYTE *context;
  CK_ULONG context_len;
  const CK_BYTE *seed;
  CK_ULONG seed_len;
  const CK_BYTE *data;
  CK_ULONG data_len;
};
enum { PQ_GENERATE = 1, PQ_SIGN, PQ_DECAPSULATE, PQ_PUBLIC, PQ_ENCAPSULATE, PQ_MARSHAL, PQ_UNMARSHAL };
enum { PQ_DETERMINISTIC = 1 };
CK_RV pq_ask(const struct pq_request *q, CK_BYTE **answer, CK_ULONG *len);
void pq_stop(void);

#endif
