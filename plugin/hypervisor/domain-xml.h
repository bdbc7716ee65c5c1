// SPDX-License-Identifier: LGPL-2.1-or-later
// libvirt's XML: the definition of a domain read, backup and checkpoint definitions written and
// read. Pure: text in, values or text out; nothing is looked up on the host. Source: libvirt's
// formatdomain, formatbackup and formatcheckpoint. Text from a domain is not trusted: no entity is
// expanded, no network or file access.
#pragma once

#include "plugin/hypervisor/instance.h"

G_BEGIN_DECLS

#define VS_DOMAIN_XML_ERROR (vs_domain_xml_error_quark())
GQuark vs_domain_xml_error_quark(void);

typedef enum {
    VS_DOMAIN_XML_ERROR_INVALID, // no XML, or not what was expected
} VsDomainXmlError;

// The instance that a domain's XML (live or inactive) describes: kind "libvirt", name, files, disks
// in the XML's order. Not set are ids, status, definition, virtual sizes and bitmaps. Of a disk:
//   target       its dev ("vda"); aliases: the serial, the libvirt alias, where it has them
//   source       file or device path as written; network disks as a URI; "" where there is none
//   format       the driver's type, "raw" by default
//   chain        source, then the backingStore elements' sources; a definition often tells just
//                the source: the images' headers tell how it goes on, unless chain_ends
//   chain_ends   there is an empty <backingStore/> below the last of them
//   chain_formats   the driver's type, then the backingStore elements'; NULL where one has none
//   iothread     virtio: driver iothread (or iothreads) on the disk; scsi: on the controller that
//                its address names
//   is_shared    <shareable/>
//   can_track, persistent_bitmaps   format is qcow2
//   live_only    it or a backing file is encrypted, or a slice of a file
//   unavailable  why it can't be captured: source type neither file, block nor network; transient;
//                device "lun"
// CD-ROMs, floppies, <readonly/> disks and disks without a source are not listed.
// one_capture is set: a domain has one backup job at a time.
VsInstance *vs_domain_xml_parse(const char *xml, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Backup definitions (domainbackup) ------------------------------------------------------------

typedef struct {
    char *target;      // the disk
    char *scratch;     // pull: scratch file; push: target file; a qcow2 image that is there
    char *export_name; // pull: NBD export
    char *incremental; // the checkpoint to read from, NULL: full
    char *bitmap;      // pull, incremental: name of the exported bitmap
    char *image;       // read only: libvirt's name of the scratch or target, "vda[3]"; NULL: none
} VsBackupDisk;
VsBackupDisk *vs_backup_disk_new(void);
void vs_backup_disk_free(VsBackupDisk *disk);

typedef struct {
    bool push;
    char *socket;     // pull: path of the NBD server's unix socket
    GPtrArray *disks; // VsBackupDisk *: those with backup='yes'
} VsBackupXml;
void vs_backup_xml_free(VsBackupXml *backup);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsBackupXml, vs_backup_xml_free)

// Every disk of the instance that is not in backup->disks is written with backup='no'.
char *vs_backup_xml_format(const VsBackupXml *backup, const VsInstance *instance);
// What virDomainBackupGetXMLDesc() returns, also of strangers' jobs: members that are not there
// (tcp servers have no socket) are NULL.
VsBackupXml *vs_backup_xml_parse(const char *xml, GError **error) G_GNUC_WARN_UNUSED_RESULT;

// Checkpoint definitions (domaincheckpoint) -----------------------------------------------------

typedef struct {
    char *target;
    char *bitmap;
    bool has_size; // libvirt found the bitmap sound (asked with VIR_DOMAIN_CHECKPOINT_XML_SIZE)
    uint64_t size_bytes; // dirty then
} VsCheckpointDisk;

typedef struct {
    char *name;
    GPtrArray *disks; // VsCheckpointDisk *: those with checkpoint='bitmap'
} VsCheckpointXml;
void vs_checkpoint_xml_free(VsCheckpointXml *checkpoint);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(VsCheckpointXml, vs_checkpoint_xml_free)

// A checkpoint of that name with the bitmap of the same name on the targets (char *) and none on
// the instance's other disks. domain_xml: the inactive definition, to redefine one whose bitmaps
// are there already (with created_at_s, seconds since the epoch); NULL: to make it.
char *vs_checkpoint_xml_format(const char *name, const GPtrArray *targets,
                               const VsInstance *instance, const char *domain_xml,
                               int64_t created_at_s);
VsCheckpointXml *vs_checkpoint_xml_parse(const char *xml, GError **error) G_GNUC_WARN_UNUSED_RESULT;

G_END_DECLS
