"""A headless Chromium, driven through its DevTools protocol over two pipes."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading

CHROMIUM = next(
  (
    path
    for name in ('chromium', 'chromium-browser', 'google-chrome')
    if (path := shutil.which(name))
  ),
  None,
)
_SECONDS = 60
# Chromium reads its file 3 and writes its file 4.
_EXEC = """
import fcntl, os, sys
files = [fcntl.fcntl(int(f), fcntl.F_DUPFD, 10) for f in sys.argv[1:3]]
os.dup2(files[0], 3)
os.dup2(files[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
  """One page: what it is told to do, and the events that it sent."""

  def __init__(self, requests, replies):
    self._requests, self._replies = requests, replies
    self._numbers = itertools.count(1)
    self._unread = b''
    self._session = {}
    self.events = []
    target = self('Target.createTarget', url='about:blank')['targetId']
    session = self('Target.attachToTarget', targetId=target, flatten=True)
    self._session = {'sessionId': session['sessionId']}
    for domain in ('Page', 'Runtime', 'Log', 'Network'):
      self(f'{domain}.enable')

  def __call__(self, method, **params):
    """Calls a method of the protocol and returns its result."""
    number = next(self._numbers)
    message = {'id': number, 'method': method, 'params': params}
    text = json.dumps(message | self._session).encode() + b'\0'
    self._requests.write(text)
    self._requests.flush()
    while (reply := self._read()).get('id') != number:
      self.events.append(reply)
    assert 'error' not in reply, reply
    return reply['result']

  def _read(self):
    while b'\0' not in self._unread:
      received = os.read(self._replies, 2**16)
      assert received, 'Chromium ended, or did not answer in time'
      self._unread += received
    message, self._unread = self._unread.split(b'\0', 1)
    return json.loads(message)

  def open(self, address, width, scheme):
    """Loads a page in a window of this width, under a color scheme."""
    self(
      'Emulation.setDeviceMetricsOverride',
      width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
    )  # fmt: skip
    feature = {'name': 'prefers-color-scheme', 'value': scheme}
    self('Emulation.setEmulatedMedia', features=[feature])
    self.events.clear()
    self('Page.navigate', url=address)
    while not any(e['method'] == 'Page.loadEventFired' for e in self.events):
      self.events.append(self._read())

  def evaluate(self, expression):
    """Returns the value of JavaScript, waited for if it is a promise."""
    result = self(
      'Runtime.evaluate',
      expression=expression, awaitPromise=True, returnByValue=True,
    )  # fmt: skip
    assert 'exceptionDetails' not in result, result
    return result['result'].get('value')

  def errors(self):
    """Returns what went wrong since the page was opened."""
    return [
      event
      for event in self.events
      if event['method'] in ('Runtime.exceptionThrown', 'Network.loadingFailed')
      or event['params'].get('type') in ('error', 'assert')
      or event['params'].get('entry', {}).get('level') == 'error'
    ]

  def addresses(self):
    """Returns what the page asked for since it was opened."""
    return [
      event['params']['request']['url']
      for event in self.events
      if event['method'] == 'Network.requestWillBeSent'
    ]


@contextlib.contextmanager
def launched(profile):
  """Starts Chromium with an empty profile; yields a `Page`."""
  requests_out, requests_in = os.pipe()
  replies_out, replies_in = os.pipe()
  flags = [
    '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
    '--no-first-run', '--remote-debugging-pipe', f'--user-data-dir={profile}',
  ]  # fmt: skip
  process = subprocess.Popen(
    [
      sys.executable, '-c', _EXEC, str(requests_out), str(replies_in),
      CHROMIUM, *flags,
    ],
    pass_fds=(requests_out, replies_in),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )  # fmt: skip
  os.close(requests_out)
  os.close(replies_in)
  timer = threading.Timer(_SECONDS, process.kill)
  timer.start()
  with os.fdopen(requests_in, 'wb') as requests:
    try:
      yield Page(requests, replies_out)
    finally:
      timer.cancel()
      process.kill()
      process.wait()
      os.close(replies_out)
