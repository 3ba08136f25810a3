/*
 * Fault injection for tests: named places that can be made to fail or to kill
 * the process. Built in only with the CMake option TERN_FAULTS; without it every call
 * below is a constant and costs nothing.
 *
 * Code asks fault_fails("ledger.mdb_put") beside each call that can fail and acts as if the
 * call had; FAULT_KILL("ledger.commit.before") marks a place where a crash must be survived.
 * Any thread may pass a place. Tests arm before they start threads.
 */
#ifndef TERN_BASE_FAULT_H
#define TERN_BASE_FAULT_H

#include "base/err.h"

#ifdef TERN_FAULTS

static inline int fault_is_built(void) {
    return 1;
}

/* True when this pass of the failable place NAME is to fail. */
int fault_fails(const char *name);

/* Sends SIGKILL to this process when a rule names this pass of NAME. */
void fault_kill_point(const char *name);
#define FAULT_KILL(name) fault_kill_point(name)

/*
 * Replaces all rules by those of SPEC and sets all counts to zero. Rules are separated by
 * commas:
 *   kill:NAME:N   SIGKILL at the Nth pass (from 1) of the kill points that NAME names
 *   fail:NAME:N   the Nth pass of the failable places that NAME names fails; "N+": it and all later
 *   log           each pass is written to standard error
 * NAME is a whole name, or a beginning followed by '*'. The process starts with the rules of
 * the environment variable TERN_FAULT. ERR_INVALID, and no rules, if SPEC is malformed.
 */
MUST_USE enum err fault_arm(const char *spec);
void fault_disarm(void);

/* How often rules have made a place fail since fault_arm. */
uint64_t fault_fired(void);

/* How many passes the rules' names have matched since fault_arm, failed or not. */
uint64_t fault_passes(void);

#else

static inline int fault_is_built(void) {
    return 0;
}

static inline int fault_fails(const char *name) {
    (void)name;
    return 0;
}

#define FAULT_KILL(name) ((void)0)

MUST_USE static inline enum err fault_arm(const char *spec) {
    return err_fail(ERR_UNSUPPORTED, "fault '%s': built without TERN_FAULTS", spec);
}

static inline void fault_disarm(void) {
}

static inline uint64_t fault_fired(void) {
    return 0;
}

static inline uint64_t fault_passes(void) {
    return 0;
}

#endif
#endif
