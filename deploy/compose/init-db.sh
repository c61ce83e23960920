#!/bin/bash
# Runs once, in the container of PostgreSQL: a role that is nothing but the owner of its database.
set -euo pipefail
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\set password `cat /run/own/db-password`
CREATE ROLE keywright LOGIN PASSWORD :'password';
CREATE DATABASE keywright OWNER keywright;
REVOKE CONNECT ON DATABASE keywright FROM PUBLIC;
SQL
