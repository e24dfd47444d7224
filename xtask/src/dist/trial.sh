#!/bin/sh
# The trial inside of the virtual machine, as root, started by the image's own unit. Every check is a line
# `trial: ok ...` or `trial: FAILED ...`; the last line is `trial: passed` if none failed. See trial.rs.
set -u
cd /run/trial

UNIT=tokentrail-agent
CONFIG=/etc/tokentrail/agent.toml
EVENTS=/var/log/tokentrail/events.ndjson
failures=0

# check WHAT COMMAND...
check() {
    what=$1
    shift
    if "$@"; then
        echo "trial: ok $what"
    else
        failures=$((failures + 1))
        echo "trial: FAILED $what"
        systemctl status --no-pager --lines=0 "$UNIT" 2>&1 | sed 's/^/    /'
        journalctl --unit="$UNIT" --lines=30 --no-pager --output=cat 2>&1 | sed 's/^/    /'
    fi
}

no() { ! "$@"; }
# Within SECONDS: an emulated machine is slow.
within() {
    left=$1
    shift
    while ! "$@"; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 1
    done
}
has_mode() { [ "$(stat -c '%a %U' "$2")" = "$1 root" ]; }
# No process runs it, whatever it is called.
runs() {
    for program in /proc/[0-9]*/exe; do
        case "$(readlink "$program" 2>/dev/null)" in
        /usr/bin/tokentrail-agent*) return 0 ;;
        esac
    done
    return 1
}
journal_says() { journalctl --unit="$UNIT" --no-pager --output=cat | grep -q -e "$1"; }
# An event of the program $1 about the path $2.
seen() { grep -F "\"path\":\"$2\"" "$EVENTS" 2>/dev/null | grep -q -F "\"name\":\"$1\""; }
random() { head -c 27 /dev/urandom | base64 | tr -d +/=; }
request() { curl --silent --output /dev/null --insecure --header "Authorization: Bearer $credential" "$1"; }
scope() { sed -i "s|^scope = .*|scope = [$1]|" "$CONFIG"; }
restarts() { [ "$(systemctl show --property=NRestarts --value "$UNIT")" = "$1" ]; }

echo "trial: $(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r), systemd $(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')"
ip link set lo up 2>/dev/null || true
credential=$(random)

# A server for cleartext and TLS.
cat >/etc/nginx/conf.d/trial.conf <<'EOF'
server {
    listen 127.0.0.1:8080;
    listen 127.0.0.1:8443 ssl;
    ssl_certificate /run/trial/cert.pem;
    ssl_certificate_key /run/trial/key.pem;
    location / { return 200 "{}"; }
}
EOF
systemctl restart nginx.service
check "a web server runs" systemctl --quiet is-active nginx.service

dpkg --install agent.deb >install.txt 2>&1
check "the package is installed" [ $? = 0 ]
sed 's/^/    /' install.txt
check "it says that it was not started, and why" grep -q "NOT started" install.txt
check "... and what to do" grep -q "no scope" install.txt
enabled() { systemctl --quiet is-enabled "$UNIT" 2>/dev/null; }
check "it is not enabled" no enabled
check "nothing runs" no runs
check "the key is root's alone" has_mode 600 /etc/tokentrail/key.toml
check "the configuration is root's alone" has_mode 600 "$CONFIG"
check "there is a man page in the package" sh -c 'dpkg --contents agent.deb | grep -q man1/tokentrail-agent-run.1.gz'

systemctl start "$UNIT" 2>/dev/null
check "without a scope it does not start" no systemctl --quiet is-active "$UNIT"
check "... which the journal explains" journal_says "no scope"
check "... and is not tried again" restarts 0

scope '"host"'
mkdir -p "/etc/systemd/system/$UNIT.service.d"
# Soon enough to be seen to be heard.
printf '[Service]\nWatchdogSec=20\nTimeoutStartSec=300\n' >"/etc/systemd/system/$UNIT.service.d/trial.conf"
systemctl daemon-reload
systemctl reset-failed "$UNIT" 2>/dev/null
check "with scope host it starts" systemctl enable --now --quiet "$UNIT"
check "it has said that it is ready" [ "$(systemctl show --property=SubState --value "$UNIT")" = running ]
started=$(date +%s)
journalctl --unit="$UNIT" --no-pager --output=cat | grep "ready:" | sed 's/^/    /'
request http://127.0.0.1:8080/trial/cleartext
check "an event of curl over cleartext" within 60 seen curl /trial/cleartext
check "an event of nginx over cleartext" within 60 seen nginx /trial/cleartext
request https://127.0.0.1:8443/trial/tls
check "an event of curl over TLS" within 90 seen curl /trial/tls
check "an event of nginx over TLS" within 90 seen nginx /trial/tls
name=$(printf %s "$credential" | tokentrail-agent fingerprint --fingerprint-key /etc/tokentrail/key.toml)
check "the events bear the fingerprint of the credential" grep -q -F "$name" "$EVENTS"
check "the credential itself is nowhere" no grep -r -q -F "$credential" /var/log /var/lib/tokentrail /var/cache/tokentrail
check "events are root's alone" has_mode 600 "$EVENTS"

check "it is reloaded" systemctl reload "$UNIT"
sleep $((started + 45 - $(date +%s))) 2>/dev/null
check "after two periods of the watchdog it still runs" systemctl --quiet is-active "$UNIT"
check "... and was never started anew" restarts 0

check "it restarts" systemctl restart "$UNIT"
request http://127.0.0.1:8080/trial/restarted
check "an event after the restart" within 60 seen curl /trial/restarted

scope '"unit:nginx.service"'
check "it restarts with a unit as its scope" systemctl restart "$UNIT"
request http://127.0.0.1:8080/trial/unit
check "an event of the unit" within 60 seen nginx /trial/unit
systemctl restart nginx.service
request http://127.0.0.1:8080/trial/unit-again
check "an event of the unit after its own restart" within 60 seen nginx /trial/unit-again
check "no event of a program outside of the unit" no seen curl /trial/unit
check "nor later" no seen curl /trial/unit-again

dpkg --install agent.deb >upgrade.txt 2>&1
check "an upgrade starts what ran anew" systemctl --quiet is-active "$UNIT"
check "... and says nothing of a scope" no grep -q "NOT started" upgrade.txt
systemctl stop "$UNIT"
dpkg --install agent.deb >upgrade.txt 2>&1
check "an upgrade leaves alone what was stopped" no systemctl --quiet is-active "$UNIT"
systemctl start "$UNIT"

dpkg --remove tokentrail-agent >remove.txt 2>&1
check "the package is removed" [ $? = 0 ]
check "nothing runs after its removal" no runs
check "it ended well: its sums hold" journal_says "sums hold\|^holds:"
check "... all of them" no journal_says "DOES NOT HOLD"
check "the unit is gone" no enabled
check "key and configuration are kept" [ -e /etc/tokentrail/key.toml -a -e "$CONFIG" ]

dpkg --install agent.deb >again.txt 2>&1
check "installed again, with a scope, it starts by itself" within 120 systemctl --quiet is-active "$UNIT"
dpkg --purge tokentrail-agent >>remove.txt 2>&1
check "the package is purged" [ $? = 0 ]
check "nothing runs after that" no runs
check "key and configuration are gone" [ ! -e /etc/tokentrail/key.toml -a ! -e "$CONFIG" ]
check "the events are kept" [ -s "$EVENTS" ]

if [ "$failures" = 0 ]; then
    echo "trial: passed"
fi
