"""What a Galaxy S24 (SM-S921B, Exynos 2400) says of itself: properties, system files and services' dumps.

The forms are those of real phones' outputs (battery with Samsung's own keys and a second charge counter, thermal
service with a sensor that reads 0.0 and one at -FLT_MAX); the values are static and a test may write others.
"""

from device_agent.runner.build import HOST_ABI

_CLUSTERS = {  # policy: (its cores, lowest kHz, highest kHz)
    "policy0": ("0 1 2 3", 400_000, 1_959_000),
    "policy4": ("4 5 6", 672_000, 2_592_000),
    "policy7": ("7 8", 672_000, 2_900_000),
    "policy9": ("9", 672_000, 3_207_000),
}
_KERNEL = "6.1.43-android14-11"
_PARTS = ["0xd80"] * 4 + ["0xd81"] * 5 + ["0xd82"]
_FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 "
    "sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm sb paca pacg dcpodp sve2 flagm2 frint i8mm bf16 bti"
)

_PROPERTIES = {
    "ro.build.fingerprint": "samsung/e1sxeea/e1s:14/UP1A.231005.007/S921BXXS3AXF1:user/release-keys",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.product.brand": "samsung",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.product.cpu.abilist": "arm64-v8a",
    "ro.product.device": "e1s",
    "ro.product.manufacturer": "samsung",
    "ro.product.model": "SM-S921B",
    "ro.product.name": "e1sxeea",
    "ro.board.platform": "erd9945",
    "ro.hardware": "s5e9945",
    "ro.soc.manufacturer": "Samsung",
    "ro.soc.model": "s5e9945",
    "ro.fulcrum.virtual": "1",
    "ro.fulcrum.host_abi": HOST_ABI,
    "sys.boot_completed": "1",
}

_BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Dock powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 2967000
  status: 5
  health: 2
  present: true
  level: 100
  scale: 100
  voltage: 4312
  temperature: 309
  technology: Li-ion
  charge counter: 2967000
  current now: 0
  mSavedBatteryAsoc: 96
Battery history:
  11-23 10:00:00.000 Sending ACTION_BATTERY_CHANGED: level:36, status:2, health:2, temperature:386
"""

_THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 2
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=66.5, mType=0, mName=AP, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=39.6, mType=0, mName=AP, mStatus=0}
\tTemperature{mValue=30.9, mType=2, mName=BAT, mStatus=0}
\tTemperature{mValue=-3.4028235E38, mType=1, mName=GPU, mStatus=0}
\tTemperature{mValue=36.8, mType=5, mName=PATHM, mStatus=0}
\tTemperature{mValue=31.8, mType=3, mName=SKIN, mStatus=0}
\tTemperature{mValue=0.0, mType=-1, mName=SUBBAT, mStatus=0}
\tTemperature{mValue=32.9, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
Temperature static thresholds from HAL:
"""

_POWER = """POWER MANAGER (dumpsys power)
Power Manager State:
  mWakefulness=Awake
  mFixedPerformanceMode=false
"""

_MEMORY = """MemTotal:        7552644 kB
MemFree:          412340 kB
MemAvailable:    3481220 kB
Buffers:            4872 kB
Cached:          3102452 kB
SwapTotal:       8388604 kB
SwapFree:        6902344 kB
"""


def _cpuinfo() -> str:
    cores = [
        f"processor\t: {number}\nBogoMIPS\t: 51.20\nFeatures\t: {_FEATURES}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n"
        for number, part in enumerate(_PARTS)
    ]
    return "\n".join(cores)


_POWER_SUPPLY = {
    "capacity": "100",
    "current_now": "0",
    "health": "Good",
    "present": "1",
    "status": "Full",
    "technology": "Li-ion",
    "temp": "309",
    "type": "Battery",
    "voltage_now": "4312000",
}
_THERMAL_ZONES = (("BIG", 39_600), ("MIDH", 38_900), ("MIDL", 38_700), ("LITTLE", 38_200), ("battery", 30_900))


def _system() -> dict[str, str]:
    """Files under /sys."""
    cpu = "sys/devices/system/cpu"
    content = {f"{cpu}/{name}": "0-9\n" for name in ("online", "possible", "present")}
    for policy, (cores, low, high) in _CLUSTERS.items():
        folder = f"{cpu}/cpufreq/{policy}"
        content |= {
            f"{folder}/affected_cpus": f"{cores}\n",
            f"{folder}/related_cpus": f"{cores}\n",
            f"{folder}/cpuinfo_min_freq": f"{low}\n",
            f"{folder}/cpuinfo_max_freq": f"{high}\n",
            f"{folder}/scaling_cur_freq": f"{high}\n",
            f"{folder}/scaling_min_freq": f"{low}\n",
            f"{folder}/scaling_max_freq": f"{high}\n",
            f"{folder}/scaling_governor": "energy_aware\n",
        }
    content |= {f"sys/class/power_supply/battery/{name}": f"{value}\n" for name, value in _POWER_SUPPLY.items()}
    for number, (kind, millidegrees) in enumerate(_THERMAL_ZONES):
        zone = f"sys/class/thermal/thermal_zone{number}"
        content |= {f"{zone}/type": f"{kind}\n", f"{zone}/temp": f"{millidegrees}\n"}
    return content


LINKS = {
    f"sys/devices/system/cpu/cpu{core}/cpufreq": f"../cpufreq/{policy}"
    for policy, (cores, _, _) in _CLUSTERS.items()
    for core in cores.split()
}


def files(serial: str) -> dict[str, str]:
    """Path under the phone's directory to content, for all that is data."""
    properties = {**_PROPERTIES, "ro.serialno": serial, "ro.boot.serialno": serial}
    return {
        "properties": "".join(f"[{name}]: [{value}]\n" for name, value in sorted(properties.items())),
        "dumpsys/battery": _BATTERY,
        "dumpsys/thermalservice": _THERMAL,
        "dumpsys/power": _POWER,
        "proc/meminfo": _MEMORY,
        "proc/cpuinfo": _cpuinfo(),
        "proc/version": f"Linux version {_KERNEL} (kleaf@build-host) #1 SMP PREEMPT\n",
        "settings/global/airplane_mode_on": "0\n",
        "settings/global/stay_on_while_plugged_in": "0\n",
        **_system(),
    }


SCRIPTS = {
    "getprop": """#!/bin/sh
file="$FULCRUM_VIRTUAL_ROOT/properties"
[ $# -eq 0 ] && exec cat "$file"
while IFS= read -r line; do
  case "$line" in "[$1]: ["*) value=${line#"[$1]: ["}; printf '%s\\n' "${value%]}"; exit 0 ;; esac
done < "$file"
printf '%s\\n' "$2"
""",
    "dumpsys": """#!/bin/sh
case "$1" in
  "" | */* | .*) echo "Can't find service: $1"; exit 0 ;;
esac
[ -f "$FULCRUM_VIRTUAL_ROOT/dumpsys/$1" ] && exec cat "$FULCRUM_VIRTUAL_ROOT/dumpsys/$1"
echo "Can't find service: $1"
""",
    "settings": """#!/bin/sh
case "$2/$3" in *..* | */*/*) echo "Invalid name: $2 $3" >&2; exit 255 ;; esac
file="$FULCRUM_VIRTUAL_ROOT/settings/$2/$3"
case "$1" in
  get) if [ -f "$file" ]; then cat "$file"; else echo null; fi ;;
  put) mkdir -p "${file%/*}" && printf '%s\\n' "$4" > "$file" ;;
  delete) rm -f "$file"; echo 'Deleted 1 rows' ;;
  *) echo "Invalid command: $1" >&2; exit 255 ;;
esac
""",
    # Connectivity and power services, as far as a measurement changes them.
    "cmd": """#!/bin/sh
root="$FULCRUM_VIRTUAL_ROOT"
case "$*" in
  "connectivity airplane-mode enable") echo 1 > "$root/settings/global/airplane_mode_on" ;;
  "connectivity airplane-mode disable") echo 0 > "$root/settings/global/airplane_mode_on" ;;
  "power set-fixed-performance-mode-enabled true" | "power set-fixed-performance-mode-enabled false")
    sed -i "s/mFixedPerformanceMode=.*/mFixedPerformanceMode=$3/" "$root/dumpsys/power" ;;
  *) echo "cmd: Can't find service: $1" >&2; exit 20 ;;
esac
""",
    "input": """#!/bin/sh
case "$*" in
  "keyevent 223") state=Asleep ;;
  "keyevent 224") state=Awake ;;
  *) echo "Error: Unknown command: $1" >&2; exit 255 ;;
esac
sed -i "s/mWakefulness=.*/mWakefulness=$state/" "$FULCRUM_VIRTUAL_ROOT/dumpsys/power"
""",
    # The phone's cores are the host's, counted round: what runs is pinned, but to another number.
    "taskset": """#!/bin/sh
case "$1" in '' | *[!0-9a-f]*) echo "taskset: bad mask '$1'" >&2; exit 1 ;; esac
mask=$((0x$1)); shift
while read -r key value; do case "$key" in Cpus_allowed_list:) list=$value ;; esac; done < /proc/self/status
own=; count=0
for part in $(echo "$list" | tr , ' '); do
  core=${part%-*}
  while [ "$core" -le "${part#*-}" ]; do own="$own $core"; core=$((core + 1)); count=$((count + 1)); done
done
bit=0; chosen=
while [ "$mask" -gt 0 ]; do
  if [ $((mask & 1)) = 1 ]; then
    place=0
    for core in $own; do [ "$place" = $((bit % count)) ] && chosen="$chosen,$core"; place=$((place + 1)); done
  fi
  mask=$((mask >> 1)); bit=$((bit + 1))
done
exec /usr/bin/taskset -c "${chosen#,}" "$@"
""",
    "uname": f"""#!/bin/sh
options=${{*:-s}}
case "$options" in *[!asnrvmo\\ -]*) echo "uname: Unknown option '$*'" >&2; exit 1 ;; esac
words=
has() {{ case "$options" in *["$1"a]*) words="$words $2" ;; esac; }}
has s Linux; has n localhost; has r {_KERNEL}; has v '#1 SMP PREEMPT'; has m aarch64; has o Android
echo "${{words# }}"
""",
    "nproc": f"#!/bin/sh\necho {len(_PARTS)}\n",
    "hostname": "#!/bin/sh\necho localhost\n",
    "id": """#!/bin/sh
case "$*" in
  "") echo 'uid=2000(shell) gid=2000(shell) groups=2000(shell),1007(log),3003(inet) context=u:r:shell:s0' ;;
  -u | -g) echo 2000 ;;
  -un | -gn) echo shell ;;
  *) echo "id: Unknown option '$*'" >&2; exit 1 ;;
esac
""",
    "whoami": "#!/bin/sh\necho shell\n",
}
