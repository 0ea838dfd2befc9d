#!/usr/bin/env python3
"""Runs what compose.yaml says, without a container engine: the same commands, environments,
files, users and addresses, as processes in namespaces of their own. Then it loses a node,
and the primary. Needs root, Linux, and Debian's postgresql, haproxy, mosquitto-clients,
python3-yaml and util-linux.

  PROGRAM=FILE         the program of the image; without it, it is built
  COMPOSE_SCHEMA=FILE  schema/compose-spec.json of compose-spec; the file is checked by it
                       with python3-jsonschema
"""
import atexit, functools, glob, http.client, json, os, pwd, shutil, signal, subprocess, sys, tempfile, time, urllib.error, urllib.request

import yaml

here = os.path.dirname(os.path.abspath(__file__))
print = functools.partial(print, flush=True)
compose = yaml.safe_load(open(f"{here}/compose.yaml"))
services = compose["services"]


def die(text):
    sys.exit(f"nodes-image-test: {text}")


def run(*args, **more):
    done = subprocess.run(args, text=True, capture_output=True, **more)
    if done.returncode != 0:
        die(f"{' '.join(args)}: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


if os.environ.get("INSIDE") != "1":
    if os.getuid() != 0:
        die("must run as root: it mounts and changes the user (sudo make nodes-image-test)")
    for tool, package in {"unshare": "util-linux", "setpriv": "util-linux", "ip": "iproute2", "haproxy": "haproxy", "mosquitto_sub": "mosquitto-clients"}.items():
        if not shutil.which(tool):
            die(f"{tool} is missing: apt-get install {package}")
    if not glob.glob("/usr/lib/postgresql/*/bin"):
        die("PostgreSQL is missing: apt-get install postgresql")
    if schema := os.environ.get("COMPOSE_SCHEMA"):
        import jsonschema
        jsonschema.Draft7Validator(json.load(open(schema))).validate(compose)
        print("== compose.yaml keeps to the schema")
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        env = dict(os.environ, INSIDE="1", WORK=work)
        if not env.get("PROGRAM"):
            env["PROGRAM"] = f"{work}/heartline"
            run("go", "build", "-trimpath", "-o", env["PROGRAM"], ".", cwd=f"{here}/../../..", env=dict(env, CGO_ENABLED="0"))
        sys.exit(subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", sys.executable, __file__], env=env).returncode)

work = os.environ["WORK"]
postgres_bin = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
postgres = pwd.getpwnam("postgres")
path = f"{postgres_bin}:/usr/sbin:/usr/bin:/sbin:/bin"


def own(directory, uid, gid):
    os.makedirs(directory, exist_ok=True)
    os.chown(directory, uid, gid)
    return directory


# The network: each service has its name and its address.
run("ip", "link", "set", "lo", "up")
hosts = "127.0.0.1 localhost\n"
for name, s in services.items():
    address = s["networks"]["default"]["ipv4_address"]
    run("ip", "address", "add", f"{address}/24", "dev", "lo")
    hosts += f"{address} {name}\n"
open(f"{work}/hosts", "w").write(hosts)
run("mount", "--bind", f"{work}/hosts", "/etc/hosts")

# /run is new: the secrets, and the socket of PostgreSQL.
run(f"{here}/setup.sh", f"{work}/secrets")
run("mount", "-t", "tmpfs", "-o", "mode=755", "run", "/run")
os.mkdir("/run/secrets")
for name, secret in compose["secrets"].items():
    shutil.copy(f"{work}/secrets/{os.path.basename(secret['file'])}", f"/run/secrets/{name}")
own("/run/postgresql", postgres.pw_uid, postgres.pw_gid)

# The volumes.
own(f"{work}/volumes", 0, 0)
volumes = {name: own(f"{work}/volumes/{name}", *((65532, 0) if name == "data" else (postgres.pw_uid, postgres.pw_gid))) for name in compose["volumes"]}
os.chmod(volumes["data"], 0o770)


def mounts(service):
    """The shell commands that mount a service's volumes, in a namespace of its own."""
    text = ""
    for v in service.get("volumes", []):
        source, target = v.split(":")[:2]
        real = volumes.get(source) or f"{here}/{source}"
        if source.startswith("."):
            text += f"mkdir -p {os.path.dirname(target)}; : >{target} 2>/dev/null || true; "
        else:
            text += f"mkdir -p {target}; "
        text += f"mount --bind {real} {target}; "
    return text


def start(name, argv, uid, gid, env=None):
    """Starts a service's process: only what compose.yaml gives it, and the image's user."""
    s = services[name]
    log = open(f"{work}/{name}.log", "a")
    script = f"set -e; mount -t tmpfs -o uid={uid},gid={gid} tmpfs /run/postgresql; {mounts(s)} exec setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs \"$@\""
    p = subprocess.Popen(["unshare", "--mount", "bash", "-c", script, "bash", *argv], stdout=log, stderr=log, start_new_session=True,
                         env={"PATH": path, "HOME": "/", **{k: str(v) for k, v in s.get("environment", {}).items()}, **(env or {})})
    return p


def logs():
    for name in services:
        if os.path.exists(f"{work}/{name}.log"):
            print(f"--- {name}\n" + open(f"{work}/{name}.log").read()[-1500:])


failed = True


@atexit.register
def report():
    if failed:
        logs()


def until(what, ok, patience=120):
    end = time.monotonic() + patience
    while not ok():
        if time.monotonic() > end:
            die(f"{what} did not come within {patience} s")
        time.sleep(0.05)


# Paths that the images have and this machine may not.
for directory in ("/etc/heartline", "/data", "/usr/local/etc/haproxy", "/docker-entrypoint-initdb.d"):
    top = "/" + directory.split("/")[1]
    if not os.path.isdir(directory):
        os.makedirs(directory)
        atexit.register(lambda d=directory: subprocess.run(["rmdir", "-p", "--ignore-fail-on-non-empty", d], capture_output=True))

print("== the balancer's configuration: haproxy -c")
run("haproxy", "-c", "-f", f"{here}/haproxy.cfg")

print("== the primary, as the image's entrypoint sets it up")
pgdata = f"{volumes['primary']}/data"
as_postgres = ["setpriv", "--reuid", str(postgres.pw_uid), "--regid", str(postgres.pw_gid), "--clear-groups"]
penv = {"PATH": path, "PGDATA": pgdata, "POSTGRES_USER": "postgres"}
run(*as_postgres, "initdb", "-D", pgdata, "--username=postgres", "--pwfile=/run/secrets/postgres-password", "--auth-local=trust", "--auth-host=scram-sha-256", env=penv, cwd="/")
with open(f"{pgdata}/pg_hba.conf", "a") as hba:
    hba.write("\nhost all all all scram-sha-256\n")
server = services["primary"]["command"]
run(*as_postgres, "pg_ctl", "-D", pgdata, "-w", "-l", f"{pgdata}/setup.log", "-o", " ".join(server[1:]) + " -c listen_addresses=''", "start", env=penv, cwd="/")
run(*as_postgres, "sh", f"{here}/primary.sh", env=penv, cwd="/")
run(*as_postgres, "pg_ctl", "-D", pgdata, "-w", "-m", "fast", "stop", env=penv, cwd="/")
primary = start("primary", server, postgres.pw_uid, postgres.pw_gid, {"PGDATA": pgdata})
health = services["primary"]["healthcheck"]["test"][1:]
until("the primary", lambda: subprocess.run(health, env={"PATH": path}).returncode == 0)

print("== the standby")
standby_data = services["standby"]["environment"]["PGDATA"].replace("/var/lib/postgresql/data", volumes["standby"])
s = services["standby"]
entry = [s["entrypoint"][0], f"{here}/standby.sh", *s["command"]]
standby = start("standby", entry, postgres.pw_uid, postgres.pw_gid, {"PGDATA": standby_data})


def sql(host, text):
    env = {"PATH": path, "PGPASSWORD": open("/run/secrets/postgres-password").read().strip()}
    done = subprocess.run(["psql", "-X", "-t", "-A", "-h", host, "-U", "postgres", "-c", text], env=env, text=True, capture_output=True)
    return done.stdout.strip()


until("the synchronous standby", lambda: sql("primary", "SELECT sync_state FROM pg_stat_replication") == "sync")

print("== users, as the first lines of compose.yaml make them")
program = [os.environ["PROGRAM"]]


def once(*args, given=""):
    script = f"set -e; {mounts(services['node-a'])} exec setpriv --reuid 65532 --regid 0 --clear-groups \"$@\""
    env = {"PATH": path, **services["node-a"]["environment"]}
    return run("unshare", "--mount", "bash", "-c", script, "bash", *program, *args, input=given, env=env)


once("user", "add", "--file", "/data/users.yaml", "alice", given="correct horse battery\n")
token = once("token", "create", "--file", "/data/users.yaml", "backend").strip()

print("== three nodes and the balancer")
nodes = [n for n in services if n.startswith("node-")]
command = services["node-a"]["command"]
running = {n: start(n, program + command, 65532, 0) for n in nodes}
# -n: fewer connections than haproxy.cfg, for machines that allow fewer open files.
balancer = start("balancer", ["haproxy", "-W", "-db", "-n", "1000", "-f", "/usr/local/etc/haproxy/haproxy.cfg"], 65532, 65532)


def call(method, where, body=None):
    req = urllib.request.Request(f"http://{where}", method=method, data=None if body is None else json.dumps(body).encode(),
                                 headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(req, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
    except OSError as e:
        return 0, str(e)


until("the nodes", lambda: all(call("GET", f"{n}:8080/readyz")[0] == 200 for n in nodes))
until("each node with a relay to both others", lambda: all(call("GET", f"{n}:8080/readyz")[1].count('"up"') >= 3 for n in nodes))
until("the balancer", lambda: call("GET", "balancer:8080/readyz")[0] == 200)
status = once("store", "status", "--config", "/etc/heartline/heartline.yaml")
print(status, once("nodes", "--config", "/etc/heartline/heartline.yaml"), sep="")
if "synchronous" not in status or "asynchronous" in status:
    die("the standby is not synchronous")


def phone():
    return subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", "-h", "balancer", "-p", "1883", "-V", "mqttv5", "-i", "phone", "-u", "alice", "-P", "correct horse battery",
                             "-c", "-x", "3600", "-q", "1", "-k", "5", "-t", "heartline/devices/phone/notifications"], stdout=open(f"{work}/phone", "a"), stderr=subprocess.STDOUT)


def post(id):
    """Posts a notification until it is accepted, and returns the seconds it took."""
    began = time.monotonic()

    def accepted():
        code, answer = call("POST", "balancer:8080/v1/notifications", {"id": id, "account": "alice", "title": id})
        if code not in (0, 200, 202, 502, 503): # 502: the node was lost during the request
            die(f"{id}: {code} {answer}")
        return code in (200, 202)
    until(f"the acceptance of {id}", accepted)
    return time.monotonic() - began


def arrives(id):
    until(f"{id} at the phone", lambda: f'"id":"{id}"' in open(f"{work}/phone").read())
    until(f"the ack of {id}", lambda: '"state":"acked"' in call("GET", f"balancer:8080/v1/notifications/{id}")[1])


code, answer = call("PUT", "balancer:8080/v1/accounts/alice/devices/phone", {})
if code >= 300:
    die(f"PUT: {code} {answer}")
device = phone()
post("first")
arrives("first")
print("a notification went through the balancer to the phone and its ack came back")

# The network is on one loopback: the source of a connection is what the client binds.
stranger = "10.77.0.99"
run("ip", "address", "add", f"{stranger}/24", "dev", "lo")


def login(source, forwarded):
    """Calls with a wrong token, from an address and with a claim of another, and returns the status."""
    c = http.client.HTTPConnection("balancer", 8080, timeout=60, source_address=(source, 0))
    try:
        c.request("GET", "/v1/notifications", headers={"Authorization": "Bearer wrong", "X-Forwarded-For": forwarded})
        return c.getresponse().status
    finally:
        c.close()


if (code := login(stranger, "192.0.2.1")) != 401:
    die(f"a wrong token: {code}, want 401")
refused = [line for n in nodes for line in open(f"{work}/{n}.log") if 'msg="request refused"' in line]
if len(refused) != 1 or f"remote={stranger}:" not in refused[0]:
    die(f"the log does not name the client's address {stranger}: {refused}")
print("the nodes see the address of a client over HTTP")

for n in nodes:
    print(f"== kill -9 of {n}")
    os.killpg(running[n].pid, signal.SIGKILL)
    print(f"accepted {post('without-' + n):.1f} s later")
    arrives("without-" + n)
    running[n] = start(n, program + command, 65532, 0)
    until(n, lambda: call("GET", f"{n}:8080/readyz")[0] == 200)

print("== the primary is lost, and the standby promoted")
os.killpg(primary.pid, signal.SIGKILL)
run(*as_postgres, "pg_ctl", "-D", standby_data, "-w", "promote", env={"PATH": path}, cwd="/")
print(f"accepted {post('after-promotion'):.1f} s after the promotion")
arrives("after-promotion")
for id in ["first", *(f"without-{n}" for n in nodes)]:
    if '"state":"acked"' not in call("GET", f"balancer:8080/v1/notifications/{id}")[1]:
        die(f"{id} is gone")
print(once("store", "status", "--config", "/etc/heartline/heartline.yaml"), end="")

print("== stop")
device.terminate()
for n in nodes:
    running[n].send_signal(signal.SIGTERM)
    if running[n].wait(60) != 0:
        die(f"{n} ends with {running[n].returncode} at SIGTERM")
failed = False
print("nodes-image-test: passed")
