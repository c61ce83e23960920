/* A PKCS#11 3.2 token with ML-DSA, ML-KEM and SLH-DSA where the module behind has neither. The key pairs are objects of the module behind, so that
 * sessions, logins, searches, attributes and what other processes see of them are a real token's: curve keys, whose CKA_EC_PARAMS holds type, set and
 * seed (it protects nothing, and nobody should think so), and whose public point is the public key. A helper process computes with the seed. */
#include "pq.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"

/* Numbers of PKCS#11 3.2 (OASIS, pkcs11t.h), which this header of 2.40 does not have. */
enum {
  CKM_ML_KEM_KEY_PAIR_GEN_ = 0x0f,
  CKM_ML_KEM_ = 0x17,
  CKM_ML_DSA_KEY_PAIR_GEN_ = 0x1c,
  CKM_ML_DSA_ = 0x1d,
  CKM_HASH_ML_DSA_ = 0x1f,
  CKM_SLH_DSA_KEY_PAIR_GEN_ = 0x2d,
  CKM_SLH_DSA_ = 0x2e,
  CKK_ML_KEM_ = 0x49,
  CKK_ML_DSA_ = 0x4a,
  CKK_SLH_DSA_ = 0x4b,
  CKA_PARAMETER_SET_ = 0x61d,
  CKA_ENCAPSULATE_ = 0x633,
  CKA_DECAPSULATE_ = 0x634,
  CKA_SEED_ = 0x637,
  CKF_ENCAPSULATE_ = 0x10000000,
  CKF_DECAPSULATE_ = 0x20000000,
  CKH_DETERMINISTIC_REQUIRED_ = 2
};

const CK_MECHANISM_TYPE pq_mechanisms[PQ_MECHANISMS] = {CKM_ML_KEM_KEY_PAIR_GEN_, CKM_ML_KEM_, CKM_ML_DSA_KEY_PAIR_GEN_, CKM_ML_DSA_,
                                                        CKM_HASH_ML_DSA_, CKM_SLH_DSA_KEY_PAIR_GEN_, CKM_SLH_DSA_};

bool pq_mechanism_info(CK_MECHANISM_TYPE type, CK_MECHANISM_INFO *info) {
  switch (type) {
  case CKM_ML_KEM_KEY_PAIR_GEN_:
    *info = (CK_MECHANISM_INFO){800, 1568, CKF_GENERATE_KEY_PAIR};
    return true;
  case CKM_ML_KEM_:
    *info = (CK_MECHANISM_INFO){800, 1568, CKF_ENCAPSULATE_ | CKF_DECAPSULATE_};
    return true;
  case CKM_ML_DSA_KEY_PAIR_GEN_:
    *info = (CK_MECHANISM_INFO){1312, 2592, CKF_GENERATE_KEY_PAIR};
    return true;
  case CKM_ML_DSA_:
  case CKM_HASH_ML_DSA_:
    *info = (CK_MECHANISM_INFO){1312, 2592, CKF_SIGN};
    return true;
  case CKM_SLH_DSA_KEY_PAIR_GEN_:
    *info = (CK_MECHANISM_INFO){32, 32, CKF_GENERATE_KEY_PAIR};
    return true;
  case CKM_SLH_DSA_:
    *info = (CK_MECHANISM_INFO){32, 32, CKF_SIGN};
    return true;
  }
  return false;
}

/* What CKA_EC_PARAMS holds. */
enum { MARK_LEN = 5, MAX_SEED = 96, LOCAL = 1, ALWAYS_SENSITIVE = 2, NEVER_EXTRACTABLE = 4 };
static const char mark[MARK_LEN + 1] = "KWPQ1";
struct key {
  CK_BYTE mark[MARK_LEN], type, set, flags, seed_len, seed[MAX_SEED];
};

/* Reads the key that an object is; false: it is another module's. */
static bool read_key(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE object, struct key *k) {
  if (pq_helper == NULL) return false;
  memset(k, 0, sizeof *k);
  CK_ATTRIBUTE a = {CKA_EC_PARAMS, k, sizeof *k};
  return real->C_GetAttributeValue(s, object, &a, 1) == CKR_OK && a.ulValueLen > MARK_LEN && a.ulValueLen <= sizeof *k &&
         memcmp(k->mark, mark, MARK_LEN) == 0;
}

static const CK_ATTRIBUTE *find(const CK_ATTRIBUTE *list, CK_ULONG n, CK_ATTRIBUTE_TYPE type) {
  for (CK_ULONG i = 0; list != NULL && i < n; i++)
    if (list[i].type == type && list[i].pValue != NULL) return &list[i];
  return NULL;
}

static bool number(const CK_ATTRIBUTE *list, CK_ULONG n, CK_ATTRIBUTE_TYPE type, CK_ULONG *out) {
  const CK_ATTRIBUTE *a = find(list, n, type);
  if (a == NULL || a->ulValueLen != sizeof *out) return false;
  memcpy(out, a->pValue, sizeof *out);
  return true;
}

static bool yes(const CK_ATTRIBUTE *list, CK_ULONG n, CK_ATTRIBUTE_TYPE type, bool otherwise) {
  const CK_ATTRIBUTE *a = find(list, n, type);
  return a == NULL || a->ulValueLen != 1 ? otherwise : *(CK_BYTE *)a->pValue != 0;
}

/* Makes the object behind: the template without what 2.40 does not know, as a curve key. value is the public key, or nothing. */
static CK_RV put(CK_SESSION_HANDLE s, const CK_ATTRIBUTE *list, CK_ULONG n, CK_OBJECT_CLASS class, struct key *k, CK_BYTE *value,
                 CK_ULONG value_len, CK_OBJECT_HANDLE *object) {
  CK_ATTRIBUTE *t = calloc(n + 4, sizeof *t);
  if (t == NULL) return CKR_HOST_MEMORY;
  CK_KEY_TYPE type = CKK_EC;
  CK_BYTE nothing[32] = {1};
  CK_ULONG count = 0;
  for (CK_ULONG i = 0; i < n; i++) switch (list[i].type) {
    case CKA_CLASS:
    case CKA_KEY_TYPE:
    case CKA_VALUE:
    case CKA_PARAMETER_SET_:
    case CKA_ENCAPSULATE_:
    case CKA_DECAPSULATE_:
    case CKA_SEED_:
      break;
    default:
      t[count++] = list[i];
    }
  t[count++] = (CK_ATTRIBUTE){CKA_CLASS, &class, sizeof class};
  t[count++] = (CK_ATTRIBUTE){CKA_KEY_TYPE, &type, sizeof type};
  t[count++] = (CK_ATTRIBUTE){CKA_EC_PARAMS, k, sizeof *k - MAX_SEED + k->seed_len};
  t[count++] = class == CKO_PUBLIC_KEY ? (CK_ATTRIBUTE){CKA_EC_POINT, value, value_len} : (CK_ATTRIBUTE){CKA_VALUE, nothing, sizeof nothing};
  CK_RV rv = real->C_CreateObject(s, t, count, object);
  free(t);
  return rv;
}

static struct key new_key(CK_ULONG type, CK_ULONG set) {
  struct key k = {.type = (CK_BYTE)type, .set = (CK_BYTE)set};
  memcpy(k.mark, mark, MARK_LEN);
  return k;
}

static CK_RV generate(CK_SESSION_HANDLE s, CK_ULONG type, CK_ATTRIBUTE *public_list, CK_ULONG public_count, CK_ATTRIBUTE *private_list,
                      CK_ULONG private_count, CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key) {
  CK_ULONG set, len;
  if (public_key == NULL || private_key == NULL) return CKR_ARGUMENTS_BAD;
  if (!number(public_list, public_count, CKA_PARAMETER_SET_, &set)) return CKR_TEMPLATE_INCOMPLETE;
  if (set > 255) return CKR_ATTRIBUTE_VALUE_INVALID;
  struct key k = new_key(type, set), shown = k;
  struct pq_request q = {.what = PQ_GENERATE, .key_type = k.type, .set = k.set};
  CK_BYTE *pair;
  CK_RV rv = pq_ask(&q, &pair, &len);
  if (rv != CKR_OK) return rv;
  if (len < 1 || pair[0] > MAX_SEED || len < 1u + pair[0]) {
    free(pair);
    return CKR_DEVICE_ERROR;
  }
  k.seed_len = pair[0];
  memcpy(k.seed, pair + 1, k.seed_len);
  bool sensitive = yes(private_list, private_count, CKA_SENSITIVE, true), extractable = yes(private_list, private_count, CKA_EXTRACTABLE, false);
  k.flags = (CK_BYTE)(LOCAL | (sensitive ? ALWAYS_SENSITIVE : 0) | (extractable ? 0 : NEVER_EXTRACTABLE));
  shown.flags = LOCAL;
  rv = put(s, private_list, private_count, CKO_PRIVATE_KEY, &k, NULL, 0, private_key);
  if (rv == CKR_OK) {
    rv = put(s, public_list, public_count, CKO_PUBLIC_KEY, &shown, pair + 1 + k.seed_len, len - 1 - k.seed_len, public_key);
    if (rv != CKR_OK) (void)real->C_DestroyObject(s, *private_key); /* the first failure is the answer */
  }
  free(pair);
  return rv;
}

bool pq_generate(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *public_list, CK_ULONG public_count, CK_ATTRIBUTE *private_list,
                 CK_ULONG private_count, CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key, CK_RV *rv) {
  if (pq_helper == NULL || m == NULL) return false;
  CK_ULONG type = m->mechanism == CKM_ML_KEM_KEY_PAIR_GEN_    ? CKK_ML_KEM_
                  : m->mechanism == CKM_ML_DSA_KEY_PAIR_GEN_  ? CKK_ML_DSA_
                  : m->mechanism == CKM_SLH_DSA_KEY_PAIR_GEN_ ? CKK_SLH_DSA_
                                                              : 0;
  if (type == 0) return false;
  *rv = generate(s, type, public_list, public_count, private_list, private_count, public_key, private_key);
  return true;
}

static CK_RV create(CK_SESSION_HANDLE s, CK_ULONG type, CK_ATTRIBUTE *list, CK_ULONG count, CK_OBJECT_HANDLE *object) {
  CK_ULONG class, set, len;
  if (!number(list, count, CKA_CLASS, &class) || !number(list, count, CKA_PARAMETER_SET_, &set)) return CKR_TEMPLATE_INCOMPLETE;
  if (set > 255) return CKR_ATTRIBUTE_VALUE_INVALID;
  struct key k = new_key(type, set);
  const CK_ATTRIBUTE *a = find(list, count, class == CKO_PUBLIC_KEY ? CKA_VALUE : CKA_SEED_);
  if (a == NULL) return CKR_TEMPLATE_INCOMPLETE;
  if (class == CKO_PUBLIC_KEY) return put(s, list, count, class, &k, a->pValue, a->ulValueLen, object);
  if (class != CKO_PRIVATE_KEY || a->ulValueLen > MAX_SEED) return CKR_ATTRIBUTE_VALUE_INVALID;
  k.seed_len = (CK_BYTE)a->ulValueLen;
  memcpy(k.seed, a->pValue, a->ulValueLen);
  struct pq_request q = {.what = PQ_PUBLIC, .key_type = k.type, .set = k.set, .seed = k.seed, .seed_len = k.seed_len};
  CK_BYTE *public_key;
  CK_RV rv = pq_ask(&q, &public_key, &len); /* whether it is a seed */
  free(public_key);
  return rv != CKR_OK ? rv : put(s, list, count, class, &k, NULL, 0, object);
}

bool pq_create(CK_SESSION_HANDLE s, CK_ATTRIBUTE *list, CK_ULONG count, CK_OBJECT_HANDLE *object, CK_RV *rv) {
  CK_ULONG type;
  if (pq_helper == NULL || !number(list, count, CKA_KEY_TYPE, &type) || type < CKK_ML_KEM_ || type > CKK_SLH_DSA_) return false;
  *rv = create(s, type, list, count, object);
  return true;
}

/* One attribute by the rules of C_GetAttributeValue (5.7.5). */
static CK_RV give(CK_ATTRIBUTE *a, const void *value, CK_ULONG n) {
  if (a->pValue == NULL) {
    a->ulValueLen = n;
    return CKR_OK;
  }
  if (a->ulValueLen < n) {
    a->ulValueLen = (CK_ULONG)-1;
    return CKR_BUFFER_TOO_SMALL;
  }
  memcpy(a->pValue, value, n);
  a->ulValueLen = n;
  return CKR_OK;
}

static CK_RV refuse(CK_ATTRIBUTE *a, CK_RV rv) {
  a->ulValueLen = (CK_ULONG)-1;
  return rv;
}

static CK_RV attribute(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE object, const struct key *k, CK_ATTRIBUTE *a) {
  bool private = k->seed_len > 0;
  CK_ULONG n;
  CK_BBOOL flag;
  switch (a->type) {
  case CKA_KEY_TYPE:
    n = k->type;
    return give(a, &n, sizeof n);
  case CKA_PARAMETER_SET_:
    n = k->set;
    return give(a, &n, sizeof n);
  case CKA_KEY_GEN_MECHANISM:
    n = !(k->flags & LOCAL)          ? CK_UNAVAILABLE_INFORMATION
        : k->type == CKK_ML_KEM_     ? CKM_ML_KEM_KEY_PAIR_GEN_
        : k->type == CKK_ML_DSA_     ? CKM_ML_DSA_KEY_PAIR_GEN_
                                     : CKM_SLH_DSA_KEY_PAIR_GEN_;
    return give(a, &n, sizeof n);
  case CKA_LOCAL:
    flag = (k->flags & LOCAL) != 0;
    return give(a, &flag, 1);
  case CKA_ALWAYS_SENSITIVE:
    flag = (k->flags & ALWAYS_SENSITIVE) != 0;
    return give(a, &flag, 1);
  case CKA_NEVER_EXTRACTABLE:
    flag = (k->flags & NEVER_EXTRACTABLE) != 0;
    return give(a, &flag, 1);
  case CKA_ENCAPSULATE_:
    flag = !private && k->type == CKK_ML_KEM_;
    return give(a, &flag, 1);
  case CKA_DECAPSULATE_:
    flag = private && k->type == CKK_ML_KEM_;
    return give(a, &flag, 1);
  case CKA_SEED_:
    return refuse(a, private ? CKR_ATTRIBUTE_SENSITIVE : CKR_ATTRIBUTE_TYPE_INVALID);
  case CKA_VALUE: {
    if (private) return refuse(a, CKR_ATTRIBUTE_SENSITIVE);
    CK_ATTRIBUTE point = {CKA_EC_POINT, a->pValue, a->ulValueLen};
    CK_RV rv = real->C_GetAttributeValue(s, object, &point, 1);
    a->ulValueLen = point.ulValueLen;
    return rv;
  }
  case CKA_EC_PARAMS:
  case CKA_EC_POINT:
    return refuse(a, CKR_ATTRIBUTE_TYPE_INVALID);
  default:
    return real->C_GetAttributeValue(s, object, a, 1);
  }
}

bool pq_attributes(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE object, CK_ATTRIBUTE *list, CK_ULONG count, CK_RV *rv) {
  struct key k;
  if (list == NULL || !read_key(s, object, &k)) return false;
  *rv = CKR_OK;
  for (CK_ULONG i = 0; i < count; i++) {
    CK_RV one = attribute(s, object, &k, &list[i]);
    if (one != CKR_OK) *rv = one;
  }
  return true;
}

/* The PKCS#8 of a key stands in for it at the module behind, as a secret of the session: what wraps a secret wraps a private key (2.40, 5.13.3). */
static CK_RV stand_in(CK_SESSION_HANDLE s, const struct key *k, CK_OBJECT_HANDLE *secret) {
  CK_OBJECT_CLASS class = CKO_SECRET_KEY;
  CK_KEY_TYPE type = CKK_GENERIC_SECRET;
  CK_BBOOL is = 1, not = 0;
  struct pq_request q = {.what = PQ_MARSHAL, .key_type = k->type, .set = k->set, .seed = k->seed, .seed_len = k->seed_len};
  CK_BYTE *der;
  CK_ULONG n;
  CK_RV rv = pq_ask(&q, &der, &n);
  if (rv == CKR_ARGUMENTS_BAD) return CKR_KEY_NOT_WRAPPABLE;
  if (rv != CKR_OK) return rv;
  CK_ATTRIBUTE t[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_TOKEN, &not, 1}, {CKA_SENSITIVE, &not, 1},
                      {CKA_EXTRACTABLE, &is, 1}, {CKA_VALUE, der, n}};
  rv = real->C_CreateObject(s, t, sizeof t / sizeof *t, secret);
  free(der);
  return rv;
}

static CK_RV wrap(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, const struct key *k, CK_BYTE *out,
                  CK_ULONG *length) {
  CK_BBOOL extractable = 0;
  CK_ATTRIBUTE a = {CKA_EXTRACTABLE, &extractable, 1};
  CK_RV rv = real->C_GetAttributeValue(s, key, &a, 1);
  if (rv != CKR_OK) return rv;
  if (k->seed_len == 0) return CKR_KEY_NOT_WRAPPABLE;
  if (!extractable) return CKR_KEY_UNEXTRACTABLE;
  CK_OBJECT_HANDLE secret;
  rv = stand_in(s, k, &secret);
  if (rv != CKR_OK) return rv;
  rv = real->C_WrapKey(s, m, wrapping, secret, out, length);
  CK_RV gone = real->C_DestroyObject(s, secret);
  return rv != CKR_OK ? rv : gone;
}

bool pq_wrap(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE wrapping, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *length, CK_RV *rv) {
  struct key k;
  if (!read_key(s, key, &k)) return false;
  *rv = wrap(s, m, wrapping, key, &k, out, length);
  return true;
}

/* Unwraps as a secret that can be read, reads it, and makes a key of it. */
static CK_RV unwrap(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE unwrapping, CK_BYTE *wrapped, CK_ULONG length, CK_ULONG key_type,
                    CK_ATTRIBUTE *list, CK_ULONG count, CK_OBJECT_HANDLE *key) {
  CK_OBJECT_CLASS class = CKO_SECRET_KEY;
  CK_KEY_TYPE type = CKK_GENERIC_SECRET;
  CK_BBOOL is = 1, not = 0;
  CK_ATTRIBUTE t[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_TOKEN, &not, 1}, {CKA_SENSITIVE, &not, 1}, {CKA_EXTRACTABLE, &is, 1}};
  CK_OBJECT_HANDLE secret;
  CK_RV rv = real->C_UnwrapKey(s, m, unwrapping, wrapped, length, t, sizeof t / sizeof *t, &secret);
  if (rv != CKR_OK) return rv;
  CK_BYTE der[1024], *found = NULL;
  CK_ATTRIBUTE value = {CKA_VALUE, der, sizeof der};
  rv = real->C_GetAttributeValue(s, secret, &value, 1);
  CK_RV gone = real->C_DestroyObject(s, secret);
  if (rv == CKR_OK) rv = gone;
  if (rv != CKR_OK) return rv;
  struct key k = new_key(key_type, 0);
  struct pq_request q = {.what = PQ_UNMARSHAL, .key_type = k.type, .data = der, .data_len = value.ulValueLen};
  CK_ULONG n;
  rv = pq_ask(&q, &found, &n);
  if (rv == CKR_OK && n >= 1 && n - 1 <= MAX_SEED) {
    k.set = found[0];
    k.seed_len = (CK_BYTE)(n - 1);
    memcpy(k.seed, found + 1, k.seed_len);
    rv = put(s, list, count, CKO_PRIVATE_KEY, &k, NULL, 0, key);
  } else if (rv != CKR_DEVICE_ERROR)
    rv = CKR_WRAPPED_KEY_INVALID;
  free(found);
  return rv;
}

bool pq_unwrap(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE unwrapping, CK_BYTE *wrapped, CK_ULONG length, CK_ATTRIBUTE *list,
               CK_ULONG count, CK_OBJECT_HANDLE *key, CK_RV *rv) {
  CK_ULONG type;
  if (pq_helper == NULL || !number(list, count, CKA_KEY_TYPE, &type) || type < CKK_ML_KEM_ || type > CKK_SLH_DSA_) return false;
  *rv = unwrap(s, m, unwrapping, wrapped, length, type, list, count, key);
  return true;
}

/* A signature that C_SignInit has begun. */
struct begun {
  CK_SESSION_HANDLE session;
  struct key key;
  CK_BYTE flags, hash, context[255];
  CK_ULONG context_len;
  struct begun *next;
};

static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER; /* guards the list */
static struct begun *all;

static struct begun *take(CK_SESSION_HANDLE s) {
  struct begun *b = NULL;
  pthread_mutex_lock(&table);
  for (struct begun **p = &all; *p != NULL; p = &(*p)->next)
    if ((*p)->session == s) {
      b = *p;
      *p = b->next;
      break;
    }
  pthread_mutex_unlock(&table);
  return b;
}

static void leave(struct begun *b) {
  pthread_mutex_lock(&table);
  b->next = all;
  all = b;
  pthread_mutex_unlock(&table);
}

void pq_forget(CK_SESSION_HANDLE s) { free(take(s)); }

void pq_end(void) {
  pthread_mutex_lock(&table);
  while (all != NULL) {
    struct begun *b = all;
    all = b->next;
    free(b);
  }
  pthread_mutex_unlock(&table);
  pq_stop();
}

/* CK_HASH_SIGN_ADDITIONAL_CONTEXT; CK_SIGN_ADDITIONAL_CONTEXT is the same without the last (3.2, section 6.67.1). */
struct parameter {
  CK_ULONG hedge;
  CK_BYTE *context;
  CK_ULONG context_len;
  CK_MECHANISM_TYPE hash;
};

static CK_RV read_parameter(const CK_MECHANISM *m, struct begun *b) {
  bool hashes = m->mechanism == CKM_HASH_ML_DSA_;
  size_t size = hashes ? sizeof(struct parameter) : sizeof(struct parameter) - sizeof(CK_MECHANISM_TYPE);
  if (m->pParameter == NULL) return hashes ? CKR_MECHANISM_PARAM_INVALID : CKR_OK;
  struct parameter p = {0};
  if (m->ulParameterLen != size) return CKR_MECHANISM_PARAM_INVALID;
  memcpy(&p, m->pParameter, size);
  if (p.hedge > CKH_DETERMINISTIC_REQUIRED_ || p.context_len > sizeof b->context || (p.context == NULL && p.context_len > 0))
    return CKR_MECHANISM_PARAM_INVALID;
  if (p.hedge == CKH_DETERMINISTIC_REQUIRED_) b->flags |= PQ_DETERMINISTIC;
  b->context_len = p.context_len;
  if (p.context_len > 0) memcpy(b->context, p.context, p.context_len);
  if (hashes) {
    b->hash = p.hash == CKM_SHA256 ? 1 : p.hash == CKM_SHA384 ? 2 : p.hash == CKM_SHA512 ? 3 : 0;
    if (b->hash == 0) return CKR_MECHANISM_PARAM_INVALID;
  }
  return CKR_OK;
}

static CK_RV sign_init(CK_SESSION_HANDLE s, const CK_MECHANISM *m, CK_OBJECT_HANDLE object, const struct key *k) {
  bool dsa = m->mechanism == CKM_ML_DSA_ || m->mechanism == CKM_HASH_ML_DSA_;
  if (k->seed_len == 0 || (dsa ? k->type != CKK_ML_DSA_ : m->mechanism != CKM_SLH_DSA_ || k->type != CKK_SLH_DSA_))
    return CKR_KEY_TYPE_INCONSISTENT;
  CK_BBOOL may = 0;
  CK_ATTRIBUTE a = {CKA_SIGN, &may, 1};
  CK_RV rv = real->C_GetAttributeValue(s, object, &a, 1);
  if (rv != CKR_OK) return rv;
  if (!may) return CKR_KEY_FUNCTION_NOT_PERMITTED;
  struct begun *b = calloc(1, sizeof *b);
  if (b == NULL) return CKR_HOST_MEMORY;
  b->session = s;
  b->key = *k;
  rv = read_parameter(m, b);
  if (rv != CKR_OK)
    free(b);
  else
    leave(b);
  return rv;
}

bool pq_sign_init(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key, CK_RV *rv) {
  struct key k;
  if (m == NULL || !read_key(s, key, &k)) return false;
  struct begun *b = take(s);
  if (b != NULL) {
    leave(b);
    *rv = CKR_OPERATION_ACTIVE;
  } else
    *rv = sign_init(s, m, key, &k);
  return true;
}

/* The sizes of FIPS 204 table 2 and FIPS 205 table 2. */
static CK_ULONG signature_size(const struct key *k) {
  static const CK_ULONG sizes[] = {2420, 3309, 4627};
  return k->type == CKK_SLH_DSA_ ? 17088 : sizes[(k->set - 1) % 3];
}

bool pq_sign(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG in_len, CK_BYTE *out, CK_ULONG *out_len, CK_RV *rv) {
  struct begun *b = pq_helper == NULL ? NULL : take(s);
  if (b == NULL) return false;
  CK_ULONG room = *out_len;
  *out_len = signature_size(&b->key);
  if (out == NULL || room < *out_len) {
    leave(b); /* still to be made (5.2) */
    *rv = out == NULL ? CKR_OK : CKR_BUFFER_TOO_SMALL;
    return true;
  }
  struct pq_request q = {.what = PQ_SIGN, .key_type = b->key.type, .set = b->key.set, .flags = b->flags, .hash = b->hash, .context = b->context,
                         .context_len = b->context_len, .seed = b->key.seed, .seed_len = b->key.seed_len, .data = in, .data_len = in_len};
  CK_BYTE *signature;
  CK_ULONG n;
  *rv = pq_ask(&q, &signature, &n);
  if (*rv == CKR_ARGUMENTS_BAD && b->hash != 0) *rv = CKR_DATA_LEN_RANGE;
  if (*rv == CKR_OK && n <= *out_len) {
    memcpy(out, signature, n);
    *out_len = n;
  } else if (*rv == CKR_OK)
    *rv = CKR_DEVICE_ERROR;
  free(signature);
  free(b);
  return true;
}

/* Makes the object of a shared secret. */
static CK_RV keep(CK_SESSION_HANDLE s, CK_ATTRIBUTE *list, CK_ULONG count, CK_BYTE *value, CK_ULONG n, CK_OBJECT_HANDLE *secret) {
  CK_ATTRIBUTE *t = calloc(count + 1, sizeof *t);
  if (t == NULL) return CKR_HOST_MEMORY;
  CK_ULONG kept = 0;
  for (CK_ULONG i = 0; i < count; i++)
    if (list[i].type != CKA_VALUE_LEN && list[i].type != CKA_VALUE) t[kept++] = list[i];
  t[kept++] = (CK_ATTRIBUTE){CKA_VALUE, value, n};
  CK_RV rv = real->C_CreateObject(s, t, kept, secret);
  free(t);
  return rv;
}

static CK_RV kem_key(CK_SESSION_HANDLE s, const CK_MECHANISM *m, CK_OBJECT_HANDLE key, struct key *k) {
  if (pq_helper == NULL) return CKR_FUNCTION_NOT_SUPPORTED;
  if (m == NULL || m->mechanism != CKM_ML_KEM_) return CKR_MECHANISM_INVALID;
  CK_KEY_TYPE type;
  CK_ATTRIBUTE a = {CKA_KEY_TYPE, &type, sizeof type};
  CK_RV rv = real->C_GetAttributeValue(s, key, &a, 1);
  if (rv == CKR_OBJECT_HANDLE_INVALID) return CKR_KEY_HANDLE_INVALID;
  if (rv != CKR_OK) return rv;
  return read_key(s, key, k) && k->type == CKK_ML_KEM_ ? CKR_OK : CKR_KEY_TYPE_INCONSISTENT;
}

CK_RV pq_decapsulate(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key, CK_ATTRIBUTE *list, CK_ULONG count, CK_BYTE *text,
                     CK_ULONG text_len, CK_OBJECT_HANDLE *secret) {
  struct key k;
  CK_RV rv = kem_key(s, m, key, &k);
  if (rv != CKR_OK) return rv;
  if (k.seed_len == 0) return CKR_KEY_TYPE_INCONSISTENT;
  struct pq_request q = {.what = PQ_DECAPSULATE, .key_type = k.type, .set = k.set, .seed = k.seed, .seed_len = k.seed_len, .data = text, .data_len = text_len};
  CK_BYTE *value;
  CK_ULONG n;
  rv = pq_ask(&q, &value, &n);
  if (rv == CKR_ARGUMENTS_BAD) rv = CKR_ENCRYPTED_DATA_LEN_RANGE;
  if (rv == CKR_OK) rv = keep(s, list, count, value, n, secret);
  free(value);
  return rv;
}

CK_RV pq_encapsulate(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key, CK_ATTRIBUTE *list, CK_ULONG count, CK_BYTE *text,
                     CK_ULONG *text_len, CK_OBJECT_HANDLE *secret) {
  static const CK_ULONG sizes[] = {768, 1088, 1568}; /* FIPS 203 table 3 */
  struct key k;
  CK_RV rv = kem_key(s, m, key, &k);
  if (rv != CKR_OK) return rv;
  if (k.seed_len != 0) return CKR_KEY_TYPE_INCONSISTENT;
  CK_ULONG room = *text_len, n;
  *text_len = sizes[(k.set - 1) % 3];
  if (text == NULL) return CKR_OK;
  if (room < *text_len) return CKR_BUFFER_TOO_SMALL;
  CK_BYTE public_key[1568];
  CK_ATTRIBUTE a = {CKA_EC_POINT, public_key, sizeof public_key};
  if ((rv = real->C_GetAttributeValue(s, key, &a, 1)) != CKR_OK) return rv;
  struct pq_request q = {.what = PQ_ENCAPSULATE, .key_type = k.type, .set = k.set, .data = public_key, .data_len = a.ulValueLen};
  CK_BYTE *both;
  rv = pq_ask(&q, &both, &n);
  if (rv == CKR_OK && n != 32 + *text_len) rv = CKR_DEVICE_ERROR;
  if (rv == CKR_OK) rv = keep(s, list, count, both, 32, secret);
  if (rv == CKR_OK) memcpy(text, both + 32, *text_len);
  free(both);
  return rv;
}
