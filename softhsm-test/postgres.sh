#!/usr/bin/env bash
# A PostgreSQL server of its own under DIR, from the machine's packages: nothing outside DIR is touched. It listens on a Unix
# socket in DIR and, with TLS under a certificate of its own, on one port of the loopback interface. Passwords are SCRAM-SHA-256.
#
#   eval "$(softhsm-test/postgres.sh /tmp/pg)"         # make it, start it
#   keywright serve --store "$PG_URI" …                # with store.password_file: $PG_PASSWORD_FILE
#   softhsm-test/postgres.sh /tmp/pg stop [MODE]       # smart, fast (default) or immediate, as pg_ctl says it
#
# The role keywright owns the database keywright and is nothing more; PG_ADMIN_URI is the superuser's. The server refuses to
# run as root, so root starts it as the user that Debian's package makes. To clean up: stop, then remove DIR.
usage='DIR [start|stop [MODE]]'
here=$(dirname -- "${BASH_SOURCE[0]}")
. "$here/part.sh"

dir=$(part_dir "${1:-}")
# The kernel takes 107 characters for the socket.
[ ${#dir} -le 85 ] || die "the socket's path would be too long: $dir"

# The newest version installed. Debian keeps the server's programs out of the path.
bin=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1) || true
[ -n "$bin" ] || bin=$(command -v initdb) || die "PostgreSQL is missing, run softhsm-test/install.sh"
bin=$(dirname -- "$(readlink -f -- "$bin")")
need openssl

user=()
if [ "$(id -u)" -eq 0 ]; then
  id postgres >/dev/null 2>&1 || die "the user postgres is missing, run softhsm-test/install.sh"
  user=(setpriv --reuid=postgres --regid=postgres --clear-groups)
  chmod 711 "$dir"
fi
cluster() { (cd / && env -u PGHOST -u PGPORT "${user[@]}" "$@"); }
data=$dir/data

if [ "${2:-start}" = stop ]; then
  if [ -s "$data/postmaster.pid" ]; then
    cluster "$bin/pg_ctl" stop -D "$data" -m "${3:-fast}" -w -t 30 >/dev/null || die "the server does not stop"
  fi
  exit 0
fi

if [ ! -s "$data/ready" ]; then
  [ ! -e "$data" ] || die "the directory holds half a server: remove it first"
  mkdir "$data"
  keep "$dir/password" '' "$(openssl rand -hex 16)"
  keep "$dir/admin-password" '' "$(openssl rand -hex 16)"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$dir/server.key" -out "$dir/server.crt" 2>/dev/null
  cp "$dir/admin-password" "$dir/initial"
  [ ${#user[@]} -eq 0 ] || chown postgres "$data" "$dir/server.key" "$dir/server.crt" "$dir/initial"
  log=$(cluster "$bin/initdb" -D "$data" -U postgres -E UTF8 --locale=C --no-sync --no-instructions \
    --auth=scram-sha-256 --pwfile="$dir/initial" 2>&1) || die "$log"
  rm "$dir/initial"
  cat >>"$data/postgresql.conf" <<CONF
unix_socket_directories = '$data'
listen_addresses = '127.0.0.1'
ssl = on
ssl_cert_file = '$dir/server.crt'
ssl_key_file = '$dir/server.key'
max_connections = 60
shared_buffers = 64MB
CONF
  cat >"$data/pg_hba.conf" <<CONF
local   all all              scram-sha-256
hostssl all all 127.0.0.1/32 scram-sha-256
CONF
  fresh=1
fi

start() {
  cluster "$bin/pg_ctl" start -D "$data" -w -t 30 -l "$data/server.log" >/dev/null 2>&1 </dev/null
}
running() { cluster "$bin/pg_ctl" status -D "$data" >/dev/null 2>&1; }

if [ -n "${fresh:-}" ]; then
  for attempt in 1 2 3 4 5; do # until the port is free
    printf '%s' $((20000 + RANDOM % 12000)) >"$dir/port"
    printf 'port = %s\n' "$(cat "$dir/port")" >"$data/port.conf"
    [ "$attempt" -gt 1 ] || printf "include 'port.conf'\n" >>"$data/postgresql.conf"
    [ ${#user[@]} -eq 0 ] || chown postgres "$data/port.conf"
    start && break
    [ "$attempt" -lt 5 ] || die "the server does not start: $(tail -n 5 "$data/server.log")"
  done
  PGPASSWORD=$(cat "$dir/admin-password") "$bin/psql" -X -q -v ON_ERROR_STOP=1 -h "$data" -p "$(cat "$dir/port")" -U postgres postgres \
    -c "CREATE ROLE keywright LOGIN PASSWORD '$(cat "$dir/password")'" -c 'CREATE DATABASE keywright OWNER keywright'
  printf 'yes' >"$data/ready"
elif ! running; then
  start || die "the server does not start: $(tail -n 5 "$data/server.log")"
fi

port=$(cat "$dir/port")
say PG_URI "postgres://keywright@/keywright?host=$data&port=$port"
say PG_TCP_URI "postgres://keywright@localhost:$port/keywright?sslrootcert=$dir/server.crt"
say PG_PASSWORD_FILE "$dir/password"
say PG_ADMIN_URI "postgres://postgres@/keywright?host=$data&port=$port"
say PG_ADMIN_PASSWORD_FILE "$dir/admin-password"
say PG_PID "$(head -n 1 "$data/postmaster.pid")"
