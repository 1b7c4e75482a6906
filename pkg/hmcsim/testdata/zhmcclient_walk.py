#!/usr/bin/env python3
"""Walks through a simulated HMC as zhmcclient, IBM's Python client, does.

The REST requests have the form and headers that zhmcclient sends, and stomp.py
(the library below zhmcclient) is called with the arguments that zhmcclient's
NotificationReceiver gives it. zhmcclient itself is on no Debian mirror.

Arguments: host (an IPv6 address without brackets), REST port, STOMP port, file
with the CA's certificate, userid, password, and "walk" (does things and waits for
what follows), "listen" (waits until every notification type has come) or "beat"
(waits for heart-beats). Prints
one JSON object with what it found. Exit status 3: python3-stomp is not installed.
"""

import json
import os
import queue
import select
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

try:
    import stomp
except ImportError:
    sys.exit(3)


class GuardedSocket(ssl.SSLSocket):
    """An SSLSocket that two threads may use: stomp.py reads in one and sends in another.

    OpenSSL's objects are not made for that, and before 3.13 CPython does not lock them, so that a send or a receive fails
    now and then. This is a fault of the client's side, which has nothing to do with what it talks to.
    """

    def _guard(self):
        return self.__dict__.setdefault("_guard_lock", threading.Lock())

    def recv(self, n=1024, flags=0):
        wait = self.gettimeout()
        while True:
            with self._guard():
                self.settimeout(0)
                try:
                    return super().recv(n, flags)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
                finally:
                    self.settimeout(wait)
            if not select.select([self], [], [], wait)[0]:
                raise TimeoutError("timed out")

    def sendall(self, data, flags=0):
        with self._guard():
            return super().sendall(data, flags)


ssl.SSLContext.sslsocket_class = GuardedSocket

DEADLINE = time.monotonic() + 200
RESULT = {"stomp": str(stomp.__version__)}


def left():
    seconds = DEADLINE - time.monotonic()
    if seconds <= 0:
        sys.exit("the walk took too long")
    return seconds


class HTTPError(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status = status
        self.reason = body.get("reason")
        self.body = body


class Session:
    """REST as zhmcclient's Session does it."""

    def __init__(self, host, port, ca_file, userid, password):
        self.base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self.userid = userid
        self.password = password
        self.headers = {
            "User-Agent": "python-zhmcclient/1.24.0",
            "Content-Type": "application/json",
            "Accept": "*/*",
        }
        self.context = ssl.create_default_context(cafile=ca_file)

    def request(self, method, uri, body=None):
        data = json.dumps(body).encode() if body is not None else None
        req = urllib.request.Request(self.base + uri, data=data, headers=self.headers, method=method)
        try:
            with urllib.request.urlopen(req, context=self.context, timeout=min(30, left())) as resp:
                raw = resp.read()
                return json.loads(raw) if raw else None
        except urllib.error.HTTPError as exc:
            raise HTTPError(exc.code, json.loads(exc.read())) from None

    def get(self, uri):
        return self.request("GET", uri)

    def post(self, uri, body=None, wait_for_completion=False):
        result = self.request("POST", uri, body)
        if not wait_for_completion or not result or "job-uri" not in result:
            return result
        # zhmcclient's Job: query the status until the job has ended, then delete it.
        job_uri = result["job-uri"]
        while True:
            job = self.get(job_uri)
            if job["status"] in ("complete", "canceled"):
                self.request("DELETE", job_uri)
                return job
            time.sleep(min(0.1, left()))

    def logon(self):
        self.headers.pop("X-API-Session", None)
        on = self.post("/api/sessions", {"userid": self.userid, "password": self.password})
        self.session_id = on["api-session"]
        self.session_credential = on["session-credential"]
        self.object_topic = on["notification-topic"]
        self.job_topic = on["job-notification-topic"]
        self.headers["X-API-Session"] = self.session_id

    def logoff(self):
        self.request("DELETE", "/api/sessions/this-session")


class Listener:
    """zhmcclient's _NotificationListener: hands over what stomp.py tells it."""

    def __init__(self, handover):
        self.handover = handover

    @staticmethod
    def parts(args):
        # stomp.py before 7.0.0 gives headers and message, later a frame.
        return (args[0].headers, args[0].body) if len(args) == 1 else args

    def on_connecting(self, host_and_port):
        pass

    def on_connected(self, *args):
        self.handover.put(("connected", *self.parts(args)))

    def on_disconnecting(self):
        pass

    def on_disconnected(self):
        self.handover.put(("disconnected", None, None))

    def on_heartbeat(self):
        self.handover.put(("heartbeat", None, None))

    def on_heartbeat_timeout(self):
        self.handover.put(("heartbeat_timeout", None, None))

    def on_before_message(self, *args):
        pass

    def on_message(self, *args):
        self.handover.put(("message", *self.parts(args)))

    def on_receipt(self, *args):
        pass

    def on_error(self, *args):
        self.handover.put(("error", *self.parts(args)))

    def on_send(self, *args):
        pass

    def on_receiver_loop_completed(self, *args):
        pass


class Receiver:
    """STOMP as zhmcclient's NotificationReceiver does it."""

    def __init__(self, topics, host, port, ca_file, userid, password, cycle=20000):
        self.items = queue.Queue(1000)
        # What zhmcclient makes of StompRetryTimeoutConfig: all its defaults, but for a longer heart-beat cycle where
        # heart-beats are not what is looked at, so that a busy machine does not break the links.
        self.conn = stomp.Connection(
            [(host, port)],
            timeout=30,
            reconnect_attempts_max=3,
            reconnect_sleep_initial=0.1,
            reconnect_sleep_increase=0.5,
            reconnect_sleep_max=60,
            reconnect_sleep_jitter=0.1,
            keepalive=True,
            heartbeats=(cycle, cycle),
            heart_beat_receive_scale=2.0,
        )
        self.conn.set_ssl(for_hosts=[(host, port)], ca_certs=ca_file, ssl_version=ssl.PROTOCOL_TLS_CLIENT)
        self.conn.set_listener("", Listener(self.items))
        self.conn.connect(userid, password, wait=True)
        self.ids = {}
        for topic in topics:
            self.subscribe(topic)

    def subscribe(self, topic):
        self.ids[topic] = f"zhmcclient.{os.getpid()}.{id(self)}.{len(self.ids) + 1}"
        self.conn.subscribe(destination="/topic/" + topic, id=self.ids[topic], ack="auto")

    def unsubscribe(self, topic):
        self.conn.unsubscribe(id=self.ids.pop(topic))

    def next(self, *kinds):
        while True:
            kind, headers, body = self.items.get(timeout=left())
            if kind in kinds:
                return headers, body
            if kind not in ("connected", "heartbeat", "message"):
                sys.exit(f"got {kind}: {headers} {body}")

    def message(self, topic, wanted=lambda headers, body: True):
        while True:
            headers, body = self.next("message")
            if headers["destination"] == "/topic/" + topic and headers["subscription"] == self.ids[topic]:
                body = json.loads(body) if body else None
                if wanted(headers, body):
                    return headers, body

    def close(self):
        self.conn.disconnect()


def find(items, name):
    found = [item for item in items if item["name"] == name]
    if len(found) != 1:
        sys.exit(f"{name} found {len(found)} times in {items}")
    return found[0]


def listen(session, host, stomp_port, ca_file):
    """Subscribes to everything and waits for each notification type."""
    session.logon()
    for kind in "partitions", "logical-partitions":
        for part in session.get("/api/console/operations/list-permitted-" + kind)[kind]:
            try:
                session.post(part["object-uri"] + "/operations/open-os-message-channel",
                             {"include-refresh-messages": False})
            except HTTPError as exc:
                if (exc.status, exc.reason) != (409, 332):
                    raise
    topics = session.get("/api/sessions/operations/get-notification-topics")["topics"]
    receiver = Receiver([t["topic-name"] for t in topics], host, stomp_port, ca_file,
                        session.session_id, session.session_credential)
    types = {}
    while len(types) < 6:
        headers, body = receiver.next("message")
        if body:
            json.loads(body)
        types.setdefault(headers["notification-type"], bool(body))
    RESULT["types with body"] = sorted(t for t in types if types[t])
    RESULT["types without body"] = sorted(t for t in types if not types[t])
    receiver.close()
    session.logoff()


def beat(session, host, stomp_port, ca_file):
    """Waits for heart-beats on an idle link, with the default cycle. stomp.py ends a link without them."""
    session.logon()
    receiver = Receiver([session.object_topic], host, stomp_port, ca_file, session.session_id,
                        session.session_credential, cycle=5000)
    headers, _ = receiver.next("connected")
    RESULT["heart-beat"] = headers["heart-beat"]
    for _ in range(3):
        receiver.next("heartbeat")
    RESULT["alive"] = receiver.conn.is_connected()
    receiver.close()
    session.logoff()


def main():
    host, rest_port, stomp_port, ca_file, userid, password, mode = sys.argv[1:]
    session = Session(host, rest_port, ca_file, userid, password)
    if mode == "listen":
        listen(session, host, int(stomp_port), ca_file)
    elif mode == "beat":
        beat(session, host, int(stomp_port), ca_file)
    else:
        walk(session, host, int(stomp_port), ca_file, userid, password)
    print(json.dumps(RESULT))


def walk(session, host, stomp_port, ca_file, userid, password):
    RESULT["version"] = session.get("/api/version")
    try:
        session.get("/api/console")
    except HTTPError as exc:
        RESULT["without logon"] = [exc.status, exc.reason]
    session.logon()
    RESULT["console"] = session.get("/api/console")["name"]

    def receiver(topics, with_session, **kwargs):
        user = (session.session_id, session.session_credential) if with_session else (userid, password)
        return Receiver(topics, host, stomp_port, ca_file, *user, **kwargs)

    # A DPM partition: its OS messages over a channel, with refresh; stop and start it.
    cpc = find(session.get("/api/cpcs?name=" + urllib.parse.quote("CPC1"))["cpcs"], "CPC1")
    RESULT["dpm-enabled"] = session.get(cpc["object-uri"])["dpm-enabled"]
    part = find(session.get(cpc["object-uri"] + "/partitions?name=PART1")["partitions"], "PART1")
    RESULT["partition class"] = session.get(part["object-uri"])["class"]
    topic = session.post(part["object-uri"] + "/operations/open-os-message-channel",
                         {"include-refresh-messages": True})["topic-name"]
    try:
        session.post(part["object-uri"] + "/operations/open-os-message-channel", {"include-refresh-messages": True})
    except HTTPError as exc:
        RESULT["second channel"] = [exc.status, exc.reason]
    topics = session.get("/api/sessions/operations/get-notification-topics")["topics"]
    RESULT["topic types"] = sorted(t["topic-type"] for t in topics)
    RESULT["channel listed"] = any(
        t["topic-name"] == topic and t["object-uri"] == part["object-uri"] and t["include-refresh-messages"]
        for t in topics)

    os_receiver = receiver([topic], with_session=False)
    headers, body = os_receiver.message(topic)
    RESULT["refresh"] = body["os-messages"][0]["is-refresh"]
    RESULT["os headers"] = sorted(headers)
    RESULT["os keys"] = sorted(body["os-messages"][0])

    objects = receiver([session.object_topic, session.job_topic], with_session=True)
    job = session.post(part["object-uri"] + "/operations/stop", {}, wait_for_completion=True)
    RESULT["stop"] = [job["status"], job["job-status-code"]]
    shutdown = lambda headers, body: any("halted" in m["message-text"] for m in body["os-messages"])
    os_receiver.message(topic, shutdown)

    def status(new):
        return lambda headers, body: (headers["notification-type"] == "status-change"
                                      and headers["object-uri"] == part["object-uri"]
                                      and body["change-reports"][0]["new-status"] == new)

    headers, body = objects.message(session.object_topic, status("stopped"))
    RESULT["status headers"] = sorted(headers)
    RESULT["status change"] = body["change-reports"][0]["old-status"]
    headers, body = objects.message(session.job_topic)
    RESULT["job completion"] = [headers["notification-type"], headers["job-uri"].startswith("/api/jobs/"), body]
    session.post(part["object-uri"] + "/operations/start", {}, wait_for_completion=True)
    os_receiver.message(topic, lambda headers, body: any("Linux version" in m["message-text"] for m in body["os-messages"]))
    objects.message(session.object_topic, status("active"))

    # A property: the notification has a header with blanks at both ends.
    session.post(part["object-uri"], {"description": "a:b\\c\nd"})
    headers, body = objects.message(session.object_topic,
                                    lambda headers, body: headers["notification-type"] == "property-change"
                                    and headers["object-uri"] == part["object-uri"]
                                    and headers["class"] == "partition")
    RESULT["property"] = [headers["property-names"], body["change-reports"][0]["new-value"]]

    # A command to the operating system: its echo is a message.
    session.post(part["object-uri"] + "/operations/send-os-cmd", {"operating-system-command-text": "uname -a", "is-priority": False})
    os_receiver.message(topic, lambda headers, body: body["os-messages"][0]["message-text"] == "uname -a")
    RESULT["list"] = len(session.get(part["object-uri"] + "/operations/list-os-messages?begin-sequence-number=0")["os-messages"]) > 0

    # A classic LPAR.
    m90 = find(session.get("/api/cpcs?name=M90")["cpcs"], "M90")
    lpars = session.get(m90["object-uri"] + "/logical-partitions")["logical-partitions"]
    lpar = [p for p in lpars if p["status"] == "operating"][0]
    lpar_topic = session.post(lpar["object-uri"] + "/operations/open-os-message-channel",
                              {"include-refresh-messages": False})["topic-name"]
    os_receiver.subscribe(lpar_topic)
    session.post(lpar["object-uri"] + "/operations/send-os-cmd", {"operating-system-command-text": "D T", "is-priority": False})
    headers, body = os_receiver.message(lpar_topic)
    RESULT["lpar"] = [headers["class"], body["os-messages"][0]["is-refresh"]]
    try:
        down = [p for p in lpars if p["status"] == "not-activated"][0]
        session.post(down["object-uri"] + "/operations/open-os-message-channel", {})
    except HTTPError as exc:
        RESULT["no channel"] = [exc.status, exc.reason]
    os_receiver.unsubscribe(lpar_topic)
    RESULT["permitted"] = [
        len(session.get("/api/console/operations/list-permitted-partitions")["partitions"]),
        len(session.get("/api/console/operations/list-permitted-logical-partitions")["logical-partitions"]),
    ]

    # The logs: own logons are in the security log.
    log = session.get("/api/console/operations/get-security-log")
    RESULT["own logon"] = any(e["event-id"] == "1941" and e["userid"] == userid for e in log)
    RESULT["token in log"] = session.session_id in json.dumps(log)

    # A topic that is unknown, and a password that is wrong.
    os_receiver.subscribe("nobody.1")
    headers, body = os_receiver.next("error")
    RESULT["unknown topic"] = headers["message"]
    RESULT["alive after"] = os_receiver.conn.is_connected()
    try:
        Receiver([], host, stomp_port, ca_file, userid, "wrong").close()
        RESULT["wrong password"] = "connected"
    except stomp.exception.ConnectFailedException:
        RESULT["wrong password"] = "ConnectFailedException"

    for r in (objects, os_receiver):
        r.close()
    session.logoff()
    try:
        session.get("/api/console")
    except HTTPError as exc:
        RESULT["after logoff"] = [exc.status, exc.reason]


main()
