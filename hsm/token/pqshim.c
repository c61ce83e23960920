#include "pqshim.h"

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

typedef struct {
	kw_ulong mechanism;
	void *param;
	kw_ulong len;
} mechanism;

typedef struct {
	kw_ulong type;
	void *value;
	kw_ulong len;
} attribute;

// CK_INTERFACE (section 3.7).
typedef struct {
	char *name;
	kw_list_3_2 *list;
	kw_ulong flags;
} interface;

enum { SignInit = 42, Sign = 43, DecapsulateKey = 68 + 24 + 1 };

kw_list_3_2 *kw_interface(const char *path)
{
	static const char name[] = "PKCS 11";
	unsigned char version[2] = {3, 2};
	void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
	if (handle == NULL)
		return NULL;
	kw_ulong (*get)(const char *, unsigned char *, interface **, kw_ulong) =
		(kw_ulong(*)(const char *, unsigned char *, interface **, kw_ulong))dlsym(handle, "C_GetInterface");
	dlclose(handle); // it was loaded before, and stays so
	interface *it = NULL;
	if (get == NULL || get(name, version, &it, 0) != 0 || it == NULL || it->list == NULL || it->name == NULL)
		return NULL;
	// A list of an earlier version ends before the function.
	if (strcmp(it->name, name) != 0 || it->list->version[0] != 3 || it->list->version[1] < 2 || it->list->f[DecapsulateKey] == NULL)
		return NULL;
	return it->list;
}

kw_ulong kw_sign_context(kw_list *l, kw_ulong session, kw_ulong mech, kw_ulong key, kw_ulong hedge, const unsigned char *context,
			 kw_ulong contextlen, kw_ulong hash, const unsigned char *in, kw_ulong inlen, unsigned char *out, kw_ulong *n)
{
	static unsigned char nothing[16];
	struct {
		kw_ulong hedge;
		void *context;
		kw_ulong contextlen, hash;
	} p = {hedge, contextlen == 0 ? NULL : (void *)context, contextlen, hash};
	mechanism m = {mech, &p, hash != 0 ? sizeof p : offsetof(__typeof__(p), hash)};
	kw_ulong max = *n;
	kw_ulong rv = ((kw_ulong(*)(kw_ulong, mechanism *, kw_ulong))l->f[SignInit])(session, &m, key);
	if (rv != 0)
		return rv;
	rv = ((kw_ulong(*)(kw_ulong, unsigned char *, kw_ulong, unsigned char *, kw_ulong *))l->f[Sign])(
		session, inlen == 0 ? nothing : (unsigned char *)in, inlen, out, n);
	return rv == 0 && *n > max ? KW_LENGTH_LIE : rv;
}

kw_ulong kw_decapsulate(kw_list_3_2 *l, kw_ulong session, kw_ulong mech, kw_ulong key, const unsigned char *in, kw_ulong inlen, kw_ulong len,
			kw_ulong *secret)
{
	kw_ulong class = 4 /* CKO_SECRET_KEY */, type = 0x10 /* CKK_GENERIC_SECRET */;
	unsigned char yes = 1, no = 0;
	attribute t[] = {
		{0x0, &class, sizeof class}, {0x100, &type, sizeof type}, {0x1, &no, 1}, {0x103, &no, 1}, {0x162, &yes, 1}, {0x161, &len, sizeof len},
	};
	mechanism m = {mech, NULL, 0};
	return ((kw_ulong(*)(kw_ulong, mechanism *, kw_ulong, attribute *, kw_ulong, unsigned char *, kw_ulong, kw_ulong *))l->f[DecapsulateKey])(
		session, &m, key, t, len != 0 ? 6 : 5, (unsigned char *)in, inlen, secret);
}
