#!/bin/sh
# The verbs of the Ruby service's script, for those who have it in a crontab:
#     medusa_copier.sh start | stop | restart | status | toggle-halt
# It runs in its own directory, where config/, log/ and run/ are. COPIER names another medusa-copier than the one of
# venv/ or .venv/ beside it, or of PATH.
set -e
cd "$(dirname "$(readlink -f "$0")")"
for candidate in "$COPIER" venv/bin/medusa-copier .venv/bin/medusa-copier "$(command -v medusa-copier || true)"; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then copier=$candidate; break; fi
done
case "$1" in
    start | stop | restart | status | toggle-halt) ;;
    *)
        echo "Usage: $0 start | stop | restart | status | toggle-halt" >&2
        exit 2
        ;;
esac
if [ -z "$copier" ]; then
    echo "$0: there is no medusa-copier; install it in venv/ beside this script, or set COPIER" >&2
    exit 1
fi
exec "$copier" "$@"
