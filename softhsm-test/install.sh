#!/usr/bin/env bash
# Installs what the tests need and the machine lacks. Debian; needs root only when something is missing.
set -euo pipefail

packages=()
PATH=$PATH:/usr/sbin # where daemons are, which a user may not have in the path
need() { command -v "$1" >/dev/null 2>&1 || packages+=("$2"); }

need gcc gcc
need openssl openssl
need curl curl
need git git
need make make
# The PKCS#11 parts: each is set up by the script of its name in this directory.
need softhsm2-util softhsm2
need certutil libnss3-tools
need pkcsslotd opencryptoki
need p11-kit p11-kit
need pkcs11-tool opensc # a judge of modules that shares no code with the service
need flock util-linux
need swtpm swtpm
need swtpm_setup swtpm-tools
need tpm2_getcap tpm2-tools # a judge of TPMs that shares no code with the service
need fuser psmisc
need systemd-analyze systemd # a judge of the unit
need haproxy haproxy # the balancer of deploy/compose
# The judge of the post-quantum algorithms, which is in JavaScript.
need node nodejs
need npm npm
need_library() { compgen -G "/usr/lib/*/$1" >/dev/null || packages+=("$2"); }
need_library softhsm/libsofthsm2.so libsofthsm2
need_library libsoftokn3.so libnss3
need_library pkcs11/libopencryptoki.so opencryptoki
need_library pkcs11/p11-kit-client.so p11-kit-modules
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql) # softhsm-test/postgres.sh starts its own
[ -e /usr/include/p11-kit-1/p11-kit/pkcs11.h ] || packages+=(libp11-kit-dev)
[ -e /usr/include/openssl/bn.h ] || packages+=(libssl-dev) # the second TPM, a simulator that is linked into tests
[ -e /usr/include/stdlib.h ] || packages+=(libc6-dev)

if [ ${#packages[@]} -gt 0 ]; then
  sudo=''
  [ "$(id -u)" -eq 0 ] || sudo=sudo
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${packages[@]}"
fi

js=$(dirname "$0")/../judges/js
if [ ! "$js/node_modules/.package-lock.json" -nt "$js/package-lock.json" ]; then
  npm ci --prefix "$js" --no-audit --no-fund --ignore-scripts --loglevel=error
fi
