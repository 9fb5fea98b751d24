#!/bin/sh
# What a removal forgot: files, users, processes and packages of the apps.
ls -d /opt/chat /opt/feed /run/chat /run/feed /var/log/chat /var/log/feed /var/lib/wsfleet /etc/wsfleet 2>/dev/null
find /etc -name '*wsfleet*' -o -name '*-g[0-9]*.conf'
getent passwd ws-chat ws-feed
supervisorctl status | grep -v ^worker
dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' python3-venv 2>/dev/null | grep ^installed
exit 0
