"""What the machine is, as far as it says."""
import os
import platform
import re


def cpu_model():
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or "unknown"


def memory_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe():
    return {"cpu": cpu_model(), "architecture": platform.machine(), "processors": len(os.sched_getaffinity(0)),
            "memory_bytes": memory_bytes(), "kernel": platform.release()}
