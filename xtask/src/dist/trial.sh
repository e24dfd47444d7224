#!/bin/sh
# The trial inside of the virtual machine, as root, started by the image's own unit. Every check is a line
# `trial: ok ...` or `trial: FAILED ...`; the last line is `trial: passed` if none failed. See trial.rs.
set -u
cd /run/trial

UNIT=tokentrail-agent
CONFIG=/etc/tokentrail/agent.toml
EVENTS=/var/log/tokentrail/events.ndjson
# The collector's.
STATE=/var/lib/tokentrail-collector
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
# has_mode MODE USER PATH
has_mode() { [ "$(stat -c '%a %U' "$3")" = "$1 $2" ]; }
# runs_program PATTERN: some process runs it, whatever it is called.
runs_program() {
    for program in /proc/[0-9]*/exe; do
        case "$(readlink "$program" 2>/dev/null)" in
        $1) return 0 ;;
        esac
    done
    return 1
}
runs() { runs_program "/usr/bin/tokentrail-agent*"; }
collector_runs() { runs_program "/usr/bin/tokentrail" || runs_program "/usr/bin/tokentrail (deleted)"; }
journal_says() { journalctl --unit="$UNIT" --no-pager --output=cat | grep -q -e "$1"; }
# An event of the program $1 about the path $2.
seen() { grep -F "\"path\":\"$2\"" "$EVENTS" 2>/dev/null | grep -q -F "\"name\":\"$1\""; }
random() { head -c 27 /dev/urandom | base64 | tr -d +/=; }
request() { curl --silent --output /dev/null --insecure --header "Authorization: Bearer $credential" "$1"; }
scope() { sed -i "s|^scope = .*|scope = [$1]|" "$CONFIG"; }
ready() { [ "$(systemctl show --property=SubState --value "$UNIT")" = running ]; }
main_pid() { systemctl show --property=MainPID --value "$UNIT"; }
# The children of the agent's process: worker, finder and keeper.
children() { cat "/proc/$(main_pid)/task/"*/children | tr ' ' '\n' | grep .; }
worker() {
    for child in $(children); do
        if tr '\0' '\n' <"/proc/$child/cmdline" | grep -qx worker; then echo "$child"; fi
    done
}
# all FIELD VALUE PID: every thread of the process has it (proc_pid_status(5)).
all() {
    some=1
    for status in /proc/"$3"/task/*/status; do
        [ -e "$status" ] || continue
        if [ "$(sed -n "s/^$1:[[:space:]]*//p" "$status" 2>/dev/null | tr '\t' ' ')" = "$2" ]; then
            some=0
        # A thread may have ended meanwhile.
        elif [ -e "$status" ]; then
            return 1
        fi
    done
    return "$some"
}
no_capabilities() {
    for set in CapInh CapPrm CapEff CapBnd CapAmb; do
        all "$set" 0000000000000000 "$1" || return 1
    done
}
# Bits of capabilities that any thread of the process has: `left PID SET`.
left() {
    bits=0
    for status in /proc/"$1"/task/*/status; do
        # A thread may have ended meanwhile.
        value=$(sed -n "s/^$2:[[:space:]]*//p" "$status" 2>/dev/null)
        bits=$((bits | 0x${value:-0}))
    done
    echo "$bits"
}
# CAP_PERFMON, CAP_BPF, CAP_CHECKPOINT_RESTORE, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_KILL; and CAP_SYS_ADMIN where
# the kernel wants it for uprobes.
KEPT=$((1 << 38 | 1 << 39 | 1 << 40 | 1 << 19 | 1 << 2 | 1 << 5))
ADMIN=$((1 << 21))
reduced() {
    for set in CapPrm CapEff CapBnd; do
        [ $(($(left "$1" "$set") & ~(KEPT | ADMIN))) = 0 ] || return 1
    done
    [ "$(left "$1" CapEff)" != 0 ]
}
# Not dumpable: /proc has it as root's, whoever it runs as; and no core by size.
no_core() { [ "$(stat -c %u "/proc/$1/environ")" = 0 ] && grep -q '^Max core file size *0 *0 ' "/proc/$1/limits"; }
worker_runs_as() { all Uid "$1 $1 $1 $1" "$(worker)"; }
# The user's number, four times.
ids() { id -u "$1" | sed 's/.*/& & & &/'; }
# The trail of the trial's credential, as the collector tells it, has $1 in it.
trail_names() {
    printf %s "$credential" | tokentrail trail --key-file analyst.key --fingerprint-key /etc/tokentrail/key.toml \
        >trail.txt 2>&1
    grep -q -F "$1" trail.txt
}
has_user() { id tokentrail >/dev/null 2>&1; }
asked_by() { setpriv --reuid="$1" --regid="$1" --clear-groups tokentrail-agent coverage >/dev/null 2>&1; }
rated() { systemd-analyze security --no-pager --threshold="$1" "$UNIT" >security.txt 2>&1; }
coverage_names() { tokentrail-agent coverage | grep -q -F "$1"; }
# The receiver of the trial has an event about the path $1.
received() { grep -q -F "\"path\":\"$1\"" /run/trial/received 2>/dev/null; }
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
check "the key is root's alone" has_mode 600 root /etc/tokentrail/key.toml
check "the configuration is root's alone" has_mode 600 root "$CONFIG"
check "there is a user for the worker" has_user
check "... whose the events will be" has_mode 750 tokentrail /var/log/tokentrail
check "... and the state" has_mode 700 tokentrail /var/lib/tokentrail
check "there is a man page in the package" sh -c 'dpkg --contents agent.deb | grep -q man1/tokentrail-agent-run.1.gz'

systemctl start "$UNIT" 2>/dev/null
check "without a scope it does not start" no systemctl --quiet is-active "$UNIT"
check "... which the journal explains" journal_says "no scope"
check "... and is not tried again" restarts 0

scope '"host"'
mkdir -p "/etc/systemd/system/$UNIT.service.d"
# A watchdog soon enough to be seen to be heard; and this script starts more often than a person would.
printf '[Unit]\nStartLimitIntervalSec=0\n[Service]\nWatchdogSec=20\nTimeoutStartSec=300\n' >"/etc/systemd/system/$UNIT.service.d/trial.conf"
systemctl daemon-reload
systemctl reset-failed "$UNIT" 2>/dev/null
check "with scope host it starts" systemctl enable --now --quiet "$UNIT"
check "it has said that it is ready" ready
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
check "events are the worker's alone" has_mode 600 tokentrail "$EVENTS"
check "systemd has left its folder to it" has_mode 750 tokentrail /var/log/tokentrail

agent=$(main_pid)
worker=$(worker)
check "there is one worker" [ "$(echo "$worker" | wc -w)" = 1 ]
check "the agent has worker, finder and keeper" [ "$(children | wc -w)" = 3 ]
check "the agent is root" all Uid "0 0 0 0" "$agent"
echo "    capabilities left: $(printf '%x' "$(left "$agent" CapEff)")"
check "... with no capability but the promised ones" reduced "$agent"
check "... no new privileges" all NoNewPrivs 1 "$agent"
check "... and a filter of system calls" all Seccomp 2 "$agent"
check "... and leaves no core" no_core "$agent"
check "the worker has its own user" worker_runs_as "$(id -u tokentrail)"
check "... and group, and no other" all Groups "" "$worker"
check "... no capability in any set" no_capabilities "$worker"
check "... no new privileges" all NoNewPrivs 1 "$worker"
check "... and a filter of system calls" all Seccomp 2 "$worker"
check "... and leaves no core" no_core "$worker"
check "what this kernel's Landlock cannot do is said" journal_says "weaker here: Landlock has ABI"
check "coverage is told, and names nginx" coverage_names /nginx
check "... as JSON" sh -c 'tokentrail-agent coverage --json | grep -q "\"counters\""'
check "... to nobody else" no asked_by www-data
check "systemd rates its exposure 3.5 at most" rated 35
tail -n 1 security.txt | sed 's/^/    /'

check "it is reloaded" systemctl reload "$UNIT"
sleep $((started + 45 - $(date +%s))) 2>/dev/null
check "after two periods of the watchdog it still runs" systemctl --quiet is-active "$UNIT"
check "... and was never started anew" restarts 0

check "it restarts" systemctl restart "$UNIT"
request http://127.0.0.1:8080/trial/restarted
check "an event after the restart" within 60 seen curl /trial/restarted

kill -s KILL "$(worker)"
check "when the worker is killed, systemd starts it anew" within 90 restarts 1
check "... to the end" within 120 ready
request http://127.0.0.1:8080/trial/killed
check "an event after that" within 60 seen curl /trial/killed

# Nobody listens there yet.
cat >>"$CONFIG" <<'EOF'

[spool]
path = "/var/lib/tokentrail/spool"

[http]
endpoint = "http://127.0.0.1:8090/events"
compression = "none"
EOF
check "it restarts with a spool" systemctl restart "$UNIT"
check "the spool is the worker's alone" has_mode 700 tokentrail /var/lib/tokentrail/spool
request http://127.0.0.1:8080/trial/spooled
# The file is behind the spool, too.
check "an event comes through the spool" within 60 seen curl /trial/spooled
check "it restarts with events that wait" systemctl restart "$UNIT"
cat >/etc/nginx/conf.d/receiver.conf <<'EOF'
log_format body escape=none $request_body;
server {
    listen 127.0.0.1:8090;
    client_max_body_size 16m;
    client_body_buffer_size 16m;
    access_log /run/trial/received body;
    location / { proxy_pass http://127.0.0.1:8091; }
}
server { listen 127.0.0.1:8091; access_log off; location / { return 200; } }
EOF
systemctl reload nginx.service
check "what waited has survived that, and is delivered" within 90 received /trial/spooled

scope '"unit:nginx.service"'
check "it restarts with a unit as its scope" systemctl restart "$UNIT"
request http://127.0.0.1:8080/trial/unit
check "an event of the unit" within 60 seen nginx /trial/unit
systemctl restart nginx.service
request http://127.0.0.1:8080/trial/unit-again
check "an event of the unit after its own restart" within 60 seen nginx /trial/unit-again
check "no event of a program outside of the unit" no seen curl /trial/unit
check "nor later" no seen curl /trial/unit-again

# The collector, on the same host; the agent delivers to it, too. Without its package there is nothing to try.
if [ -e collector.deb ]; then
    UNIT=tokentrail
    mkdir -p "/etc/systemd/system/$UNIT.service.d"
    printf '[Unit]\nStartLimitIntervalSec=0\n[Service]\nWatchdogSec=20\n' >"/etc/systemd/system/$UNIT.service.d/trial.conf"
    dpkg --install collector.deb >collector.txt 2>&1
    check "the collector's package is installed" [ $? = 0 ]
    sed 's/^/    /' collector.txt
    check "the collector has started by itself" ready
    started=$(date +%s)
    check "... and says where the first key is" grep -q "$STATE/first.key" collector.txt
    check "the first key is the collector's alone" has_mode 600 tokentrail-collector "$STATE/first.key"
    check "... and not in the journal" no journal_says ttk_
    check "its folder is its own" has_mode 700 tokentrail-collector "$STATE"
    check "it runs as a user of its own" all Uid "$(ids tokentrail-collector)" "$(main_pid)"
    check "... without a capability" no_capabilities "$(main_pid)"
    check "... no new privileges" all NoNewPrivs 1 "$(main_pid)"
    check "... and a filter of system calls" all Seccomp 2 "$(main_pid)"
    check "systemd rates its exposure 1.1 at most" rated 11
    tail -n 1 security.txt | sed 's/^/    /'
    umask 077
    runuser -u tokentrail-collector -- tokentrail access key --role admin --key-file "$STATE/first.key" me >admin.key
    check "the first key makes an admin" [ -s admin.key ]
    tokentrail access key --role analyst --key-file admin.key me >analyst.key
    tokentrail access key --role ingest --key-file admin.key agents | sed 's/^/Bearer /' >/etc/tokentrail/ingest.header
    check "... who makes keys" grep -q '^Bearer ttk_' /etc/tokentrail/ingest.header
    umask 022
    cat >>"$CONFIG" <<'EOF'

[otlp]
endpoint = "http://127.0.0.1:4318"
headers = { authorization = "file:/etc/tokentrail/ingest.header" }
EOF
    UNIT=tokentrail-agent
    check "the agent restarts with the collector as a receiver" systemctl restart "$UNIT"
    request http://127.0.0.1:8080/trial/collected
    check "the collector finds the trail of the credential" within 90 trail_names /trial/collected
    check "... of nginx" trail_names /usr/sbin/nginx
    UNIT=tokentrail
    sleep $((started + 45 - $(date +%s))) 2>/dev/null
    check "after two periods of the watchdog the collector still runs" restarts 0
    dpkg --install collector.deb >upgrade.txt 2>&1
    check "an upgrade of the collector starts it anew" ready
    check "the trail is still there" within 60 trail_names /trial/collected
    dpkg --remove tokentrail >collector.txt 2>&1
    check "the collector's package is removed" [ $? = 0 ]
    check "the collector does not run any more" no collector_runs
    dpkg --purge tokentrail >collector.txt 2>&1
    check "... and purged" [ $? = 0 ]
    check "its configuration is gone" [ ! -e /etc/tokentrail/collector.toml ]
    check "its events are kept" [ -s "$STATE/catalog.db" ]
    check "the credential is not in them, nor in the journal" no grep -r -q -F "$credential" "$STATE" /run/log/journal
    UNIT=tokentrail-agent
fi

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

# As the package before this one left it.
sed -i '/^user = /d' "$CONFIG"
chown -R root: /var/log/tokentrail /var/lib/tokentrail
dpkg --install agent.deb >again.txt 2>&1
check "installed again, with a scope, it starts by itself" within 120 systemctl --quiet is-active "$UNIT"
check "a configuration without a user holds: the worker is root" worker_runs_as 0
check "... without a capability" no_capabilities "$(worker)"
dpkg --install agent.deb >upgrade.txt 2>&1
check "an upgrade says what to do about that" grep -q "chown -R tokentrail:" upgrade.txt
sed -i 's/^\[agent\]$/[agent]\nuser = "tokentrail"/' "$CONFIG"
dpkg --install agent.deb >upgrade.txt 2>&1
check "with a user an upgrade gives it the folders" has_mode 600 tokentrail "$EVENTS"
check "... and the spool" has_mode 600 tokentrail /var/lib/tokentrail/spool/spool.db
check "... and the worker is that user" worker_runs_as "$(id -u tokentrail)"
request http://127.0.0.1:8080/trial/given
check "an event of it" within 60 seen nginx /trial/given
dpkg --purge tokentrail-agent >>remove.txt 2>&1
check "the package is purged" [ $? = 0 ]
check "nothing runs after that" no runs
check "key and configuration are gone" [ ! -e /etc/tokentrail/key.toml -a ! -e "$CONFIG" ]
check "the events are kept" [ -s "$EVENTS" ]
check "those that wait, too" [ -s /var/lib/tokentrail/spool/spool.db ]
check "and the user to whom they belong" has_user

if [ "$failures" = 0 ]; then
    echo "trial: passed"
fi
