package token

import "errors"

// ErrPINRefused is in the chain of every error that comes of a PIN which the token called wrong, locked or expired: whoever sees it
// must not open the token again with the same PIN, for the next attempt may lock the token.
var ErrPINRefused = errors.New("the token has refused the PIN")
