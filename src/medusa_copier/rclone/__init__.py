"""rclone as a resident servant: one supervised process, typed calls to it, and its errors.

``resident`` is what the rest of the service uses: it finds rclone (``binary``), keeps it running (``daemon``,
over ``process``, ``log_lines`` and ``stale``), talks to it (``client``, over ``connection``) and asks again
when that may help (``retry``). ``directories`` copies and compares directories, by ``commands`` that are processes of
their own, and keeps account of each file in a ``ledger``.
"""
