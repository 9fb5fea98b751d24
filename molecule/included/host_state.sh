#!/bin/sh
# What must not change on a host that others use too: their processes and their files.
set -eu
supervisorctl pid worker
supervisorctl pid
cat /run/nginx.pid
find /etc/nginx /etc/supervisor /etc/systemd/system ! -name 'wsfleet*' ! -name '*-g[0-9]*.conf' ! -type d -exec md5sum {} + | sort -k 2
