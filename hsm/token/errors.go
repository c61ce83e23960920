package token

import (
	"context"
	"errors"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keywright/keywright/fault"
)

// class says whose fault a CKR value is, and so what heals it.
type class uint8

const (
	classToken   class = iota // the token or its connection: drain, finalize, initialize, log in. Also every value that is not in the table
	classModule               // the library lost itself: the same
	classLogin                // nobody is logged in any more: new sessions and a login, without initialising
	classPIN                  // the PIN is refused: never sent again
	classSession              // this session: another one, and one more attempt
	classHandle               // an object handle that is not valid any more: looked up again, and one more attempt
	classDoubt                // anything: one more attempt on another session, then it is the token
	classBusy                 // no room for the moment
	classData                 // the data given by the caller does not open, or does not fit
	classKey                  // the key object does not fit the operation
	classAbsent               // the token does not do this
	classSpace                // no room on the token for more objects
)

// classes gives the class of each CKR value of PKCS#11 2.40 and 3.0 that can come as an answer. Read-only.
var classes = map[uint]class{
	pkcs11.CKR_CANCEL:                           classSession,
	pkcs11.CKR_HOST_MEMORY:                      classDoubt,
	pkcs11.CKR_SLOT_ID_INVALID:                  classToken,
	pkcs11.CKR_GENERAL_ERROR:                    classDoubt,
	pkcs11.CKR_FUNCTION_FAILED:                  classDoubt,
	pkcs11.CKR_ARGUMENTS_BAD:                    classDoubt,
	pkcs11.CKR_CANT_LOCK:                        classModule,
	pkcs11.CKR_ATTRIBUTE_READ_ONLY:              classAbsent,
	pkcs11.CKR_ATTRIBUTE_SENSITIVE:              classKey,
	pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:           classAbsent,
	pkcs11.CKR_ATTRIBUTE_VALUE_INVALID:          classAbsent,
	pkcs11.CKR_ACTION_PROHIBITED:                classKey,
	pkcs11.CKR_DATA_INVALID:                     classData,
	pkcs11.CKR_DATA_LEN_RANGE:                   classData,
	pkcs11.CKR_DEVICE_ERROR:                     classToken,
	pkcs11.CKR_DEVICE_MEMORY:                    classSpace,
	pkcs11.CKR_DEVICE_REMOVED:                   classToken,
	pkcs11.CKR_ENCRYPTED_DATA_INVALID:           classData,
	pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE:         classData,
	ckrAEADDecryptFailed:                        classData,
	pkcs11.CKR_FUNCTION_CANCELED:                classSession,
	pkcs11.CKR_FUNCTION_NOT_PARALLEL:            classSession,
	pkcs11.CKR_FUNCTION_NOT_SUPPORTED:           classAbsent,
	pkcs11.CKR_KEY_HANDLE_INVALID:               classHandle,
	pkcs11.CKR_KEY_SIZE_RANGE:                   classAbsent,
	pkcs11.CKR_KEY_TYPE_INCONSISTENT:            classKey,
	pkcs11.CKR_KEY_NOT_NEEDED:                   classKey,
	pkcs11.CKR_KEY_CHANGED:                      classKey,
	pkcs11.CKR_KEY_NEEDED:                       classKey,
	pkcs11.CKR_KEY_INDIGESTIBLE:                 classKey,
	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED:       classKey,
	pkcs11.CKR_KEY_NOT_WRAPPABLE:                classKey,
	pkcs11.CKR_KEY_UNEXTRACTABLE:                classKey,
	pkcs11.CKR_MECHANISM_INVALID:                classAbsent,
	pkcs11.CKR_MECHANISM_PARAM_INVALID:          classAbsent,
	pkcs11.CKR_OBJECT_HANDLE_INVALID:            classHandle,
	pkcs11.CKR_OPERATION_ACTIVE:                 classSession,
	pkcs11.CKR_OPERATION_NOT_INITIALIZED:        classSession,
	pkcs11.CKR_PIN_INCORRECT:                    classPIN,
	pkcs11.CKR_PIN_INVALID:                      classPIN,
	pkcs11.CKR_PIN_LEN_RANGE:                    classPIN,
	pkcs11.CKR_PIN_EXPIRED:                      classPIN,
	pkcs11.CKR_PIN_LOCKED:                       classPIN,
	pkcs11.CKR_PIN_TOO_WEAK:                     classPIN,
	pkcs11.CKR_NEW_PIN_MODE:                     classPIN,
	pkcs11.CKR_NEXT_OTP:                         classPIN,
	pkcs11.CKR_USER_PIN_NOT_INITIALIZED:         classToken, // no PIN was refused: SoftHSM says so when it was opened while another process wrote the token's file
	pkcs11.CKR_USER_TYPE_INVALID:                classPIN,
	pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN:   classLogin,
	pkcs11.CKR_USER_TOO_MANY_TYPES:              classLogin,
	pkcs11.CKR_SESSION_CLOSED:                   classSession,
	pkcs11.CKR_SESSION_COUNT:                    classBusy,
	pkcs11.CKR_SESSION_HANDLE_INVALID:           classSession,
	pkcs11.CKR_SESSION_PARALLEL_NOT_SUPPORTED:   classAbsent,
	pkcs11.CKR_SESSION_READ_ONLY:                classSession,
	pkcs11.CKR_SESSION_EXISTS:                   classSession,
	pkcs11.CKR_SESSION_READ_ONLY_EXISTS:         classSession,
	pkcs11.CKR_SESSION_READ_WRITE_SO_EXISTS:     classLogin,
	pkcs11.CKR_SIGNATURE_INVALID:                classData,
	pkcs11.CKR_SIGNATURE_LEN_RANGE:              classData,
	pkcs11.CKR_TEMPLATE_INCOMPLETE:              classAbsent,
	pkcs11.CKR_TEMPLATE_INCONSISTENT:            classAbsent,
	pkcs11.CKR_TOKEN_NOT_PRESENT:                classToken,
	pkcs11.CKR_TOKEN_NOT_RECOGNIZED:             classToken,
	pkcs11.CKR_TOKEN_WRITE_PROTECTED:            classAbsent,
	pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID:    classHandle,
	pkcs11.CKR_UNWRAPPING_KEY_SIZE_RANGE:        classKey,
	pkcs11.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT: classKey,
	pkcs11.CKR_USER_NOT_LOGGED_IN:               classLogin,
	pkcs11.CKR_WRAPPED_KEY_INVALID:              classData,
	pkcs11.CKR_WRAPPED_KEY_LEN_RANGE:            classData,
	pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID:      classHandle,
	pkcs11.CKR_WRAPPING_KEY_SIZE_RANGE:          classKey,
	pkcs11.CKR_WRAPPING_KEY_TYPE_INCONSISTENT:   classKey,
	pkcs11.CKR_RANDOM_NO_RNG:                    classAbsent,
	pkcs11.CKR_DOMAIN_PARAMS_INVALID:            classData,
	pkcs11.CKR_CURVE_NOT_SUPPORTED:              classAbsent,
	pkcs11.CKR_PUBLIC_KEY_INVALID:               classData,
	pkcs11.CKR_BUFFER_TOO_SMALL:                 classDoubt,
	uint(errLength):                             classDoubt,
	pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED:         classModule,
	pkcs11.CKR_MUTEX_BAD:                        classModule,
	pkcs11.CKR_MUTEX_NOT_LOCKED:                 classModule,
	pkcs11.CKR_FIPS_SELF_TEST_FAILED:            classModule,
	pkcs11.CKR_LIBRARY_LOAD_FAILED:              classModule,
	pkcs11.CKR_FUNCTION_REJECTED:                classKey,
	ckrSessionAsyncNotSupported:                 classAbsent,
	ckrTokenResourceExceeded:                    classBusy,
	ckrPendingClosed:                            classSession,
}

// Values of PKCS#11 3.0 and 3.2 that the library does not know.
const (
	ckrAEADDecryptFailed        = 0x00000042
	ckrSessionAsyncNotSupported = 0x00000205
	ckrTokenResourceExceeded    = 0x00000201
	ckrPendingClosed            = 0x00000203
)

// classOf gives the class of an error that holds a CKR value. ok is false for every other error.
func classOf(err error) (class, bool) {
	var e pkcs11.Error
	if !errors.As(err, &e) {
		return 0, false
	}
	return classes[uint(e)], true
}

// The faults of this package that are not about one CKR value.
var (
	errDecrypt    = fault.New(fault.DecryptionFailed, "the ciphertext does not open")
	errNoObject   = fault.New(fault.KeyMaterial, "the token has no such key")
	errAmbiguous  = fault.New(fault.KeyMaterial, "the token has several keys with the same identity")
	errTaken      = fault.New(fault.Conflict, "the token has an object with this identity already")
	errQueueFull  = fault.New(fault.Overloaded, "too many operations wait for the token").RetryAfter(time.Second)
	errNoSession  = fault.New(fault.Overloaded, "the token gives no session at the moment").RetryAfter(time.Second)
	errShut       = fault.New(fault.BackendUnavailable, "the token is closed")
	errHealing    = fault.New(fault.BackendUnavailable, "the token is not available at the moment").RetryAfter(time.Second)
	errStuck      = fault.New(fault.BackendUnavailable, "too many calls of the token's module hang").RetryAfter(time.Second)
	errSlow       = fault.New(fault.Timeout, "the token did not answer in the time that an operation may take").RetryAfter(time.Second)
	errSpoiled    = fault.New(fault.KeyMaterial, "the wrapped key does not open or does not fit its record")
	errPeer       = fault.New(fault.BadField, "the peer's public key is not a valid key of the same curve")
	errMaterial   = fault.New(fault.BadImport, "the material is not a key of the algorithm")
	errOutside    = fault.New(fault.Unsupported, "the token cannot open this wrapped key inside")
	errNoWrapping = fault.New(fault.Unsupported, "the token cannot keep keys of this kind wrapped")
)

func errPIN() error {
	return fault.Wrap(fault.BackendUnavailable, "the token refused the PIN; it is not sent again until the token is opened with another", ErrPINRefused)
}

func timeout(ctx context.Context) error {
	if cause := context.Cause(ctx); cause == errSlow { //nolint:errorlint // the exact value
		return cause
	}
	return fault.Wrap(fault.Timeout, "the deadline passed before the token answered", context.Cause(ctx))
}

// explain makes the caller's fault of an error that healing has done with.
func explain(err error) error {
	c, ok := classOf(err)
	if !ok {
		return err
	}
	switch c {
	case classData:
		return fault.Wrap(fault.BadField, "the token refuses the data", err)
	case classKey:
		return fault.Wrap(fault.KeyMaterial, "the key on the token does not allow this operation", err)
	case classHandle:
		return fault.Wrap(fault.KeyMaterial, "the token has no such key", err)
	case classAbsent:
		return fault.Wrap(fault.Unsupported, "the token cannot do this", err)
	case classBusy:
		return fault.Wrap(fault.Overloaded, "the token has no room at the moment", err).RetryAfter(time.Second)
	case classSpace:
		return fault.Wrap(fault.Overloaded, "the token has no room for more keys", err)
	}
	// So also a value about the PIN: the login has its own answer to those, and from any other function they say nothing of a PIN that was
	// refused. Taken for that, one stray answer would end all logins until the next start.
	return fault.Wrap(fault.BackendUnavailable, "the token failed", err).RetryAfter(time.Second)
}
