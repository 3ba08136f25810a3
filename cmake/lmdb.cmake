# tern_find_lmdb() finds LMDB, refuses the versions that must not be used, and gives the target
# PkgConfig::LMDB. Versions 0.9.26 to 0.9.31 carry a reader fix that was withdrawn as racy: a
# reader may be overlooked and pages that it still reads be used again. Versions before 0.9.24
# are not tried.

# Sets OUT to the reason why VERSION must not be used, or to the empty string.
function(tern_lmdb_refusal version out)
  set(reason "")
  if(NOT version MATCHES "^[0-9]+\\.[0-9]+\\.[0-9]+$")
    set(reason "its version '${version}' cannot be read")
  elseif(version VERSION_LESS 0.9.24)
    set(reason "it is older than 0.9.24")
  elseif(version VERSION_GREATER 0.9.25 AND version VERSION_LESS 0.9.32)
    set(reason "0.9.26 to 0.9.31 have a racy reader table")
  endif()
  set(${out} "${reason}" PARENT_SCOPE)
endfunction()

function(tern_find_lmdb)
  pkg_check_modules(LMDB REQUIRED IMPORTED_TARGET GLOBAL lmdb)
  tern_lmdb_refusal("${LMDB_VERSION}" refusal)
  if(refusal)
    message(FATAL_ERROR "LMDB ${LMDB_VERSION} is refused: ${refusal}. "
        "Use 0.9.24, 0.9.25, or 0.9.32 and later.")
  endif()
endfunction()
