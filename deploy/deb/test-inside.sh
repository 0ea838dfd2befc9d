#!/bin/bash
# The part of test.sh that runs in the container, as a service that systemd starts after
# the boot. It writes what it sees to /packages/report.
set -euo pipefail
cd /packages
exec >report 2>&1
trap 'echo "failed at line $LINENO: $BASH_COMMAND"; systemctl status heartline --no-pager -l || true; journalctl -u heartline -n 30 --no-pager || true' ERR
export DEBIAN_FRONTEND=noninteractive
arch=$(dpkg --print-architecture)
api=http://127.0.0.1:8080

step() { printf '== %s\n' "$*"; }
want() { # WHAT GOT WANTED
	if [ "$2" != "$3" ]; then
		echo "$1: $2, want $3"
		return 1
	fi
}
state() { curl -fsS "$api/v1/notifications/$1" | sed -n 's/.*"state":"\([a-z]*\)","timeline.*/\1/p; t; s/.*"state":"\([a-z]*\)".*/\1/p' | head -n 1; }
# login runs a terminal of the account, again until it is let in.
login() { # ACCOUNT
	while :; do
		: >terminal.err
		heartline terminal --account "$1" --device "phone-of-$1" --password-file "$1.password" >terminal.out 2>terminal.err &
		terminal=$!
		until grep -q 'is up' terminal.err; do
			kill -0 $terminal 2>/dev/null || break
			sleep 0.05
		done
		! grep -q 'is up' terminal.err || return 0
	done
}
logout() { kill -INT $terminal && wait $terminal; }
ready() { want readyz "$(curl -s -o /dev/null -w '%{http_code}' $api/readyz)" 200; }

step "the unit: systemd-analyze"
dpkg-deb -x "heartline_0.0.1_$arch.deb" unpacked
mkdir -p /run/systemd/check /etc/heartline
sed 's#/usr/bin/heartline#/packages/unpacked/usr/bin/heartline#' unpacked/lib/systemd/system/heartline.service >/run/systemd/check/heartline.service
systemd-analyze verify /run/systemd/check/heartline.service
rmdir /etc/heartline
systemd-analyze security --offline=true --threshold=20 --no-pager /run/systemd/check/heartline.service | tail -n 1

step "install"
begun=$(date +%s%N)
dpkg -i "heartline_0.0.1-rc.1_$arch.deb"
# dpkg returned, so READY=1 has come: the API answers without a wait.
ready
want "the service" "$(systemctl is-active heartline)" active
want "at boot" "$(systemctl is-enabled heartline)" enabled
heartline terminal --account bob --device bob-phone >terminal.out 2>terminal.err &
terminal=$!
until grep -q 'is up' terminal.err; do kill -0 $terminal; sleep 0.05; done
heartline send --account bob --title Hello --body "It works" --wait
echo "the first notification came $((($(date +%s%N) - begun) / 1000000)) ms after the installation began"
kill -INT $terminal
wait $terminal
grep -F 'Hello: It works' terminal.out
pid=$(systemctl show -p MainPID --value heartline)
user=$(stat -c %u "/proc/$pid")
echo "runs as user $user, $(awk '/^CapEff/ {print "capabilities " $2} /^NoNewPrivs/ {print "no new privileges " $2} /^Seccomp:/ {print "seccomp " $2}' "/proc/$pid/status" | paste -sd, -)"
[ "$user" != 0 ]
want "capabilities" "$(awk '/^CapEff/ {print $2}' "/proc/$pid/status")" 0000000000000000
# systemd grants LimitNOFILE as far as the container may go.
echo "open files: $(awk '/^Max open files/ {print $4 " of at most " $5}' "/proc/$pid/limits")"
want "open files, soft limit" "$(awk '/^Max open files/ {print $4}' "/proc/$pid/limits")" "$(awk '/^Max open files/ {print $5}' "/proc/$pid/limits")"
want "mode of the data" "$(stat -c %a /var/lib/private/heartline)" 700

step "notifications for a device that is offline"
curl -fsS -X PUT $api/v1/accounts/alice/devices/phone -H 'Content-Type: application/json' -d '{}'
echo
for i in 1 2 3; do
	curl -fsS -o /dev/null $api/v1/notifications -H 'Content-Type: application/json' -d "{\"id\":\"n-$i\",\"account\":\"alice\",\"title\":\"Number $i\"}"
done
curl -fsS $api/v1/notifications/n-3
echo

step "upgrade"
dpkg -i "heartline_0.0.1_$arch.deb"
ready
[ "$(systemctl show -p MainPID --value heartline)" != "$pid" ]
for i in 1 2 3; do
	want "n-$i after the upgrade" "$(state n-$i)" waiting
done

step "kill -9: systemd starts it again"
kill -9 "$(systemctl show -p MainPID --value heartline)"
until [ "$(systemctl show -p NRestarts --value heartline)" = 1 ] && systemctl is-active -q heartline; do sleep 0.1; done
ready
want "n-1 after the kill" "$(state n-1)" waiting

step "a secret that only root may read, and a port below 1024, as docs/install.md says"
mkdir -p /etc/heartline/secrets /etc/systemd/system/heartline.service.d
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out /etc/heartline/secrets/apns.p8 2>/dev/null
chmod 600 /etc/heartline/secrets/apns.p8
cp /etc/heartline/heartline.yaml good.yaml
cp drop-in.conf /etc/systemd/system/heartline.service.d/override.conf
cat apns.yaml >>/etc/heartline/heartline.yaml
printf '    enabled: true\n    key_id: KEYKEYKEY1\n    team_id: TEAMTEAM12\n    topic: com.example.app\n' >>/etc/heartline/heartline.yaml
sed -i 's/127.0.0.1:1883/127.0.0.1:883/' /etc/heartline/heartline.yaml
systemctl daemon-reload
systemctl restart heartline
ready
heartline terminal --server mqtt://127.0.0.1:883 --account bob --device bob-phone >terminal.out 2>terminal.err &
terminal=$!
until grep -q 'is up' terminal.err; do kill -0 $terminal; sleep 0.05; done
kill -INT $terminal
wait $terminal
if runuser -u nobody -- cat /etc/heartline/secrets/apns.p8 2>/dev/null; then echo "nobody may read the secret"; false; fi
rm -r /etc/systemd/system/heartline.service.d /etc/heartline/secrets
cp good.yaml /etc/heartline/heartline.yaml
systemctl daemon-reload
systemctl restart heartline
ready

step "users and tokens in a file, as docs/install.md says"
cp /etc/heartline/heartline.yaml good.yaml
sed -i '/^auth:/,$d' /etc/heartline/heartline.yaml
cat users.yaml >>/etc/heartline/heartline.yaml
echo "the password of alice" >alice.password
bash -e users.sh <alice.password | tee users.out
grep -E '^[^ ]{20,}$' users.out >backend.token
heartline config check --config /etc/heartline/heartline.yaml
ready
want "a call without a token" "$(curl -s -o /dev/null -w '%{http_code}' $api/v1/notifications/n-1)" 401
login alice
heartline send --token-file backend.token --account alice --title Hello --body "It works" # not to wait for the other phone
until grep -F 'Hello: It works' terminal.out; do kill -0 $terminal; sleep 0.05; done
logout
# A user who comes later is let in without a restart, as the service watches the file.
pid=$(systemctl show -p MainPID --value heartline)
echo "the password of bob" >bob.password
heartline user add --file /var/lib/heartline/users.yaml bob <bob.password
login bob
logout
want "the process" "$(systemctl show -p MainPID --value heartline)" "$pid"
rm /var/lib/heartline/users.yaml
cp good.yaml /etc/heartline/heartline.yaml
systemctl restart heartline
ready

step "a configuration that is wrong"
cp /etc/heartline/heartline.yaml good.yaml
echo 'delivry: {}' >>/etc/heartline/heartline.yaml
if systemctl restart heartline; then echo "it started"; false; fi
systemctl stop heartline
journalctl -u heartline --no-pager -o cat | grep -m1 delivry
cp good.yaml /etc/heartline/heartline.yaml

step "disabled by its administrator: an upgrade leaves it so"
systemctl disable heartline
dpkg -i "heartline_0.0.1_$arch.deb"
if systemctl is-enabled heartline; then echo "it was enabled again"; false; fi
systemctl enable heartline
systemctl restart heartline
ready

step "remove"
dpkg -r heartline
want "the service" "$(systemctl is-active heartline || true)" inactive
[ ! -e /usr/bin/heartline ]
[ -e /etc/heartline/heartline.yaml ]
[ -d /var/lib/private/heartline/data ]

step "install again: the data is there"
dpkg -i "heartline_0.0.1_$arch.deb"
ready
want "n-2 after the removal" "$(state n-2)" waiting

step "purge"
dpkg -P heartline
[ ! -e /etc/heartline ]
[ ! -e /var/lib/heartline ]
[ ! -e /var/lib/private/heartline ]
dpkg -l heartline 2>/dev/null | grep -q '^ii' && { echo "still installed"; false; }
echo "package-test: passed"
