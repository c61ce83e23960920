#!/usr/bin/env bash
# The database of an NSS softokn token under DIR, with an empty password or the one given.
#
#   eval "$(softhsm-test/nss.sh /tmp/nss 'a password')"
#
# The module initialises only with a parameter string, in CK_C_INITIALIZE_ARGS.pReserved: HSM_INIT. pkcs11-tool cannot pass
# one; through the fault module (faultmodule/README.md, `reserved`) it can. The token is the one called "NSS Certificate DB";
# the other slot is the stateless one. To clean up, remove DIR.
usage='DIR [PASSWORD]'
. "$(dirname -- "${BASH_SOURCE[0]}")/part.sh"

need certutil
# Each attribute of a private key is encrypted under a key that the password is stretched to, 10,000 times by default: seconds for an RSA key.
# The password of a test protects nothing.
export NSS_MAX_MP_PBE_ITERATION_COUNT=100
dir=$(part_dir "${1:-}")
module=$(library libsoftokn3.so)

mkdir -p "$dir/db"
if [ ! -e "$dir/pin" ]; then
  printf '%s' "${2:-}" >"$dir/pin"
elif [ -n "${2:-}" ] && [ "$(cat "$dir/pin")" != "$2" ]; then
  die "$dir/pin holds another password than the one given; remove the directory first"
fi
if [ ! -e "$dir/db/key4.db" ]; then
  if [ -s "$dir/pin" ]; then
    certutil -N -d "sql:$dir/db" -f "$dir/pin"
  else
    certutil -N -d "sql:$dir/db" --empty-password
  fi
fi

say_env NSS_MAX_MP_PBE_ITERATION_COUNT "$NSS_MAX_MP_PBE_ITERATION_COUNT"
# The serial number is the same in every database: the label has to do.
describe "$module" 'NSS Certificate DB' '' "$dir/pin" ''
say HSM_INIT "configdir='sql:$dir/db' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
