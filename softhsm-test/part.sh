# Sourced by softhsm.sh, nss.sh, opencryptoki.sh, p11kit.sh and postgres.sh: what they share.
#
# Each of them sets one part up under a directory and prints how to reach it, as shell assignments that
# `eval "$(…)"` takes. Run twice on one directory they change nothing and print the same.
set -euo pipefail
umask 077
export LC_ALL=C

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# The first of the arguments that exists: Debian has the modules under the multiarch directory, others do not.
first_of() {
  local path
  for path in "$@"; do
    [ -e "$path" ] && { printf '%s' "$path"; return; }
  done
  die "none of these is there, run softhsm-test/install.sh: $*"
}

library() {
  local dir candidates=()
  for dir in "/usr/lib/$(uname -m)-linux-gnu" /usr/lib64 /usr/lib /usr/local/lib; do
    candidates+=("$dir/$1")
  done
  first_of "${candidates[@]}"
}

need() {
  command -v "$1" >/dev/null 2>&1 || die "$1 is missing, run softhsm-test/install.sh"
}

# Makes the part's directory and prints its absolute path. Its name goes into configuration files that know no quoting.
part_dir() {
  case ${1:-} in '' | -*) die "usage: ${0##*/} $usage" ;; esac
  mkdir -p -- "$1"
  local dir
  dir=$(cd -- "$1" && pwd -P)
  [[ $dir =~ ^[A-Za-z0-9_./@%+=-]+$ ]] || die "the directory's name has characters that configuration files take badly: $dir"
  printf '%s' "$dir"
}

# Keeps a secret in a file without a newline. A part that is there keeps the secret that it was set up with.
keep() { # file value
  if [ -s "$1" ]; then
    [ -z "${2:-}" ] || [ "$(cat "$1")" = "$2" ] || die "$1 holds another PIN than the one given; remove the directory first"
  else
    printf '%s' "${2:-$3}" >"$1"
  fi
}

encode() { # RFC 7512: what is not unreserved is percent-encoded
  local text=$1 out='' i c
  for ((i = 0; i < ${#text}; i++)); do
    c=${text:i:1}
    case $c in
    [A-Za-z0-9._~-]) out+=$c ;;
    *) printf -v c '%%%02X' "'$c" && out+=$c ;;
    esac
  done
  printf '%s' "$out"
}

say() { printf '%s=%s\n' "$1" "${2@Q}"; }
say_env() { printf 'export %s=%s\n' "$1" "${2@Q}"; }

describe() { # module label serial pin-file so-pin-file
  say HSM_MODULE "$1"
  say HSM_LABEL "$2"
  say HSM_SERIAL "$3"
  say HSM_PIN_FILE "$4"
  say HSM_SOPIN_FILE "$5"
  say HSM_URI "pkcs11:token=$(encode "$2")${3:+;serial=$(encode "$3")}?module-path=$1&pin-source=file:$4"
}
