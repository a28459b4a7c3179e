#!/bin/sh
# Two databases with an owner each: neither can read the other. For the PostgreSQL container, on its first start; the same
# statements are in docs/setups/one-server.md.
set -eu
for name in kommo prefect; do
    case $name in
        kommo) password=$KOMMO_DATABASE_PASSWORD ;;
        *) password=$PREFECT_DATABASE_PASSWORD ;;
    esac
    psql --set ON_ERROR_STOP=1 --username postgres --set name="$name" --set password="$password" <<'SQL'
create role :"name" login password :'password';
create database :"name" owner :"name";
revoke connect on database :"name" from public;
SQL
done
