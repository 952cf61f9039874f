"""Outputs of real phones, as public issue threads quote them; each names its source. Shortened where `...` was."""

# Galaxy S22, pytorch/executorch pull request 11301 (the cached value: shield_optimizer issue 6).
S22_THERMAL = """IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=66.5, mType=0, mName=AP, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=39.6, mType=0, mName=AP, mStatus=0}
\tTemperature{mValue=36.3, mType=2, mName=BAT, mStatus=0}
\tTemperature{mValue=40.8, mType=5, mName=PATHM, mStatus=0}
\tTemperature{mValue=35.8, mType=3, mName=SKIN, mStatus=0}
\tTemperature{mValue=0.0, mType=-1, mName=SUBBAT, mStatus=0}
\tTemperature{mValue=0.0, mType=-1, mName=SUBBATRAW, mStatus=0}
\tTemperature{mValue=36.9, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
Temperature static thresholds from HAL:
\tTemperatureThreshold{mType=3, mName=SKIN, mHotThrottlingThresholds=[NaN, 39.0]}
"""
# Galaxy S24+ while Samsung throttles it (level 2): the thermal status still says 0.
S24_HOT_THERMAL = """Thermal Status: 0
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=53.4, mType=0, mName=AP, mStatus=0}
\tTemperature{mValue=38.6, mType=2, mName=BAT, mStatus=0}
\tTemperature{mValue=40.0, mType=3, mName=SKIN, mStatus=0}
\tTemperature{mValue=34.1, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
"""
S24_HOT_FREQUENCIES = """policy0 1632000 1959000
policy4 1824000 2592000
policy7 1824000 2900000
policy9 1824000 3207000
"""
# Galaxy S25 Ultra: sensors that are not there read the lowest float or 0.0, and a battery with a status of its own.
S25_THERMAL = """Thermal Status: 0
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=-3.4028235E38, mType=1, mName=GPU, mStatus=0}
\tTemperature{mValue=0.0, mType=-1, mName=SUBBAT, mStatus=0}
\tTemperature{mValue=0.0, mType=-1, mName=BCL_V, mStatus=0}
\tTemperature{mValue=31.2, mType=2, mName=BAT, mStatus=1}
Current cooling devices from HAL:
"""
# Samsung, mcloud-device issue 150, with the history lines of Root-My-Galaxy issue 419.
SAMSUNG_BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 0
  Charge counter: 4015000
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
    Sending ACTION_BATTERY_CHANGED: level:36, status:2, temperature:386
  temperature: 999
"""
# Galaxy S24+ (Exynos 2400), hrw/arm-socs-table issue 106 and cpufetch issue 354: four, five and one core.
S24_CPUINFO = "\n".join(
    f"processor\t: {core}\nBogoMIPS\t: 51.20\nFeatures\t: fp asimd asimddp sve sve2 i8mm bf16\n"
    f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n"
    for core, part in enumerate(["0xd80"] * 4 + ["0xd81"] * 5 + ["0xd82"])
)
# The forms of Linux' Documentation/filesystems/proc.rst, which Android's kernels share.
STATUS = """Name:\tfulcrum-runner
Cpus_allowed:\t3ff
VmPeak:\t  812340 kB
VmHWM:\t  292004 kB
VmRSS:\t  280112 kB
RssAnon:\t  201000 kB
RssFile:\t   79112 kB
VmSwap:\t    1024 kB
Threads:\t2
"""
SMAPS_ROLLUP = """5581e2a00000-7ffc3a5fe000 ---p 00000000 00:00 0                          [rollup]
Rss:              280112 kB
Pss:              251300 kB
Shared_Clean:      30112 kB
Private_Clean:     49000 kB
Private_Dirty:    201000 kB
Swap:               1024 kB
Locked:                0 kB
"""
STAT = """cpu  100 0 50 900 10 5 5 0 0 0
cpu0 60 0 30 400 4 3 3 0 20 0
cpu1 40 0 20 500 6 2 2 0 0 0
intr 1 2 3
ctxt 99
"""
