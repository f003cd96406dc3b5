// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a check can find. Codes are stable: one is never given a second meaning, nor removed.

use crate::RawPath;
use serde::{Serialize, Serializer};
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Info,
    /// Readers cope, but no writer should do it.
    Warning,
    /// Something cannot be read, or would be read differently by different readers.
    Error,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $severity:ident, $title:literal;)*) => {
        /// What is wrong: a stable code, a severity and a title for each.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// All codes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable name, such as `EF0201`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $number,)* }
            }

            /// How bad it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// One line on what it means.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    // The image as a whole.
    NotOpened = "EF0001", Error, "The image cannot be opened";
    Checksum = "EF0002", Error, "The superblock's checksum is wrong";
    Truncated = "EF0003", Error, "The image is shorter than its block count says";
    Trailing = "EF0004", Info, "Bytes follow the image's last block";
    UnknownCompat = "EF0005", Warning, "Unknown compatible feature bits";
    Label = "EF0006", Info, "The volume name has no NUL: kernels up to 6.12 refuse it";
    DeviceShort = "EF0007", Error, "An extra device is shorter than its slot says";
    DeviceOverlap = "EF0008", Error, "Devices overlap in the unified address space";
    InodeCount = "EF0009", Info, "The inode count differs from the inodes found";
    FeatureBit = "EF0010", Warning, "Something is used whose feature bit is not set";
    SpecialNamed = "EF0011", Warning, "The packed or metabox inode has a name in a directory";
    FixedNanoseconds = "EF0012", Error, "Nanoseconds of compact inodes are 10^9 or more";
    // Inodes.
    Inode = "EF0101", Error, "An inode cannot be read";
    Nanoseconds = "EF0102", Error, "An inode's nanoseconds are 10^9 or more";
    LinkCount = "EF0103", Error, "An inode's link count differs from its names";
    DirectoryLinkCount = "EF0104", Warning, "A directory's link count differs from its subdirectories";
    SpecialSize = "EF0105", Warning, "A device node, FIFO or socket has a size";
    SymlinkEmpty = "EF0106", Error, "A symbolic link has no target";
    SymlinkNul = "EF0107", Error, "A symbolic link's target contains NUL";
    Unsupported = "EF0108", Error, "An inode uses something that is not known here";
    // Directories.
    DirectoryBlock = "EF0201", Error, "A directory block is corrupt";
    NameOrder = "EF0202", Error, "Names are not in ascending order across blocks";
    NameTwice = "EF0203", Error, "A name occurs twice";
    DotMissing = "EF0204", Error, "A directory has no entry for itself or its parent";
    DotTarget = "EF0205", Error, "A directory's \".\" is another inode";
    DotDotTarget = "EF0206", Error, "A directory's \"..\" is not its parent";
    TwoParents = "EF0207", Error, "A directory has two names";
    Loop = "EF0208", Error, "A directory contains itself";
    FileType = "EF0209", Error, "An entry's type differs from the inode's";
    FileTypeUnknown = "EF0210", Warning, "An entry does not tell the type";
    DirectoryEmpty = "EF0211", Warning, "A directory has no content, not even \".\"";
    // Extended attributes.
    XattrBody = "EF0301", Error, "The extended attributes cannot be read";
    XattrEntry = "EF0302", Error, "An extended attribute reaches past its place";
    XattrShared = "EF0303", Error, "A shared extended attribute cannot be read";
    XattrPrefix = "EF0304", Warning, "An extended attribute has an unknown name prefix and is ignored";
    XattrTwice = "EF0305", Error, "An extended attribute occurs twice";
    XattrFilter = "EF0306", Error, "The name filter hides an extended attribute that is there";
    XattrName = "EF0307", Warning, "An extended attribute's name is too long to be asked for";
    XattrAcl = "EF0308", Warning, "An access control list is malformed";
    // Where content lies.
    Layout = "EF0401", Error, "An inode's layout cannot be read";
    Extent = "EF0402", Error, "An inode's extents are corrupt";
    Overlap = "EF0403", Error, "Compressed clusters overlap in part";
    Contradiction = "EF0404", Error, "One compressed cluster is used with contradictory lengths";
    PlainOverlap = "EF0405", Warning, "Stored data overlaps a compressed cluster";
    Recursion = "EF0406", Error, "The packed or metabox inode depends on itself";
    // Content.
    Undecodable = "EF0501", Error, "A compressed cluster does not decode";
    DeviceRead = "EF0502", Error, "A device cannot be read";
    InlineRead = "EF0503", Error, "Content inside the metadata cannot be read";
    // Digests.
    DigestMismatch = "EF0601", Error, "Content does not match the stored digest";
    DigestMalformed = "EF0602", Warning, "A stored digest is malformed";
    // The check itself.
    Budget = "EF0901", Error, "The work budget is used up: the check is not complete";
    Rounds = "EF0902", Info, "Overlaps were looked for in parts, to bound memory";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One thing found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// Path of the inode; `None` for what concerns no file, or an inode without a name.
    pub path: Option<RawPath>,
    /// Inode.
    pub nid: Option<u64>,
    /// Offset: of the file's content if there is an inode, else of the device.
    pub offset: Option<u64>,
    /// The particulars, for people.
    pub detail: String,
}

impl Finding {
    /// A finding with the code's own severity.
    #[must_use]
    pub fn new(code: Code, nid: Option<u64>, offset: Option<u64>, detail: String) -> Self {
        Self { code, severity: code.severity(), path: None, nid, offset, detail }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.code.title())?;
        if let Some(path) = &self.path {
            write!(f, ": {path}")?;
        }
        if let Some(nid) = self.nid {
            write!(f, " (nid {nid})")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at {offset:#x}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_ascend() {
        let names: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
        for name in names {
            assert!(name.len() == 6 && name.starts_with("EF"));
        }
    }
}
